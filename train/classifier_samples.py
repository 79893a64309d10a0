"""`python -m train.classifier_samples` runs `train.classifier.samples`."""

from train.classifier.samples import main

if __name__ == "__main__":
    main()
