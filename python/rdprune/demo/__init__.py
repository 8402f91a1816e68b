"""A ResNet-20 trained on MNIST digits, and everything that `rdprune demo` does with it."""
