"""Pretrained BERT and GPT-2, and which of their layers are trained."""
