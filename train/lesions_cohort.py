"""`python -m train.lesions_cohort` runs `train.lesions.cohort`."""

from train.lesions.cohort import main

if __name__ == "__main__":
    main()
