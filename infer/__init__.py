"""Colouring of grayscale photos with an exported model; needs neither torch nor the training code."""
