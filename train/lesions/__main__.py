"""The command line of `train.lesions`."""

from train import command, lesions

if __name__ == "__main__":
    command.run(lesions.train, lesions.LesionTraining, lesions.__doc__)
