"""Sharing models: cards, publishing, verification, and ImageNet weights for backbones."""
