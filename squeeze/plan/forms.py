"""What the forms of a model are called to readers."""

FORMS = {
    "language": "a language model",
    "torch": "a torch model",
    "onnx": "an ONNX model",
    "artifact": "an artifact",
    "language artifact": "the files of a language model's runtime",
}
