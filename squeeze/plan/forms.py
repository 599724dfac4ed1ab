"""What the forms of a model are called to readers."""

ARTIFACT = "language artifact"

FORMS = {
    "language": "a language model",
    "torch": "a torch model",
    "onnx": "an ONNX model",
    "artifact": "an artifact",
    ARTIFACT: "the files of a language model's runtime",
}
