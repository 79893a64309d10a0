"""`python -m train.texture_mnist_bias` runs `train.texture_mnist.bias`."""

from train.texture_mnist.bias import main

if __name__ == "__main__":
    main()
