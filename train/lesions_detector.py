"""`python -m train.lesions_detector` runs `train.lesions.detector`."""

from train.lesions.detector import main

if __name__ == "__main__":
    main()
