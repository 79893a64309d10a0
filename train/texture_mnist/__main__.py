"""The command line of `train.texture_mnist`."""

from train import command, texture_mnist
from train.texture_mnist.config import RECIPES

if __name__ == "__main__":
    command.run(texture_mnist.train, texture_mnist.TrainConfig, texture_mnist.__doc__, RECIPES)
