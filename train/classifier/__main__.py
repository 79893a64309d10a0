"""The command line of `train.classifier`."""

from train import classifier, command
from train.classifier.task import show

if __name__ == "__main__":
    show(command.run(classifier.train, classifier.ClassifierConfig, classifier.__doc__))
