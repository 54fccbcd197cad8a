"""The Hugging Face inference worker: an HTTP service with Qwen-VL inside.

`ask` holds the words; `loading` brings a model into memory; `pixels` and `layout` make of a request
what the model reads; `grammar` holds answers to a schema; `generate` runs the model, one
micro-batch at a time. Only this folder may import torch, and only where a model is really used:
`ask` and `loading` import without it.
"""
