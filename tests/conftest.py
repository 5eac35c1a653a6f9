from tests.masklearn.conftest import make_model, text_file

__all__ = ["make_model", "text_file"]
