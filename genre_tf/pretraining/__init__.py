"""Pretraining: language modelling on article text alone, before any stage."""
