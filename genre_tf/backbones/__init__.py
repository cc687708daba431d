"""Pretrained backbones (BERT, GPT-2, Llama) and the choice of which parts are trained."""
