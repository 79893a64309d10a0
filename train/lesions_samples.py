"""`python -m train.lesions_samples` runs `train.lesions.samples`."""

from train.lesions.samples import main

if __name__ == "__main__":
    main()
