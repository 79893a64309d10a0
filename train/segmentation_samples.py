"""`python -m train.segmentation_samples` runs `train.segmentation.samples`."""

from train.segmentation.samples import main

if __name__ == "__main__":
    main()
