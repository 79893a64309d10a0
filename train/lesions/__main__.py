"""The command line of `train.lesions`."""

from train import command, lesions
from train.lesions.config import RECIPES

if __name__ == "__main__":
    command.run(lesions.train, lesions.LesionTraining, lesions.__doc__, RECIPES)
