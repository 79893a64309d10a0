"""`python -m train.texture_mnist_samples` runs `train.texture_mnist.samples`."""

from train.texture_mnist.samples import main

if __name__ == "__main__":
    main()
