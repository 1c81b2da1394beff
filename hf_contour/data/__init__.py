"""Readers, augmentation and checks of data; knows no model."""
