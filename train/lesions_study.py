"""`python -m train.lesions_study` runs `train.lesions.study`."""

from train.lesions.study import main

if __name__ == "__main__":
    main()
