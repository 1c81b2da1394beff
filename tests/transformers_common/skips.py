"""Why common tests are skipped: the reason that the test gives, and what it means for this package."""

import re

# Overridden in the test classes with one of these reasons.
NO_EMBEDDINGS = "Images have no input embeddings"
OWN_CHECKPOINTING = "timm recomputes its own blocks"

EXPLANATIONS: dict[str, str] = {
    NO_EMBEDDINGS: "The input is pixels: there is no embedding layer to get or set.",
    OWN_CHECKPOINTING: "What is trained is timm's and holds no GradientCheckpointingLayer; "
    "test_transformers_traps compares all gradients and what is kept in memory instead.",
    "does not support attentions|not support output_attentions|not output attentions": "There is no attention.",
    "does not support SDPA|[Ff]lash [Aa]ttention|flex attention": "There is no attention.",
    "does not support setting its attention dynamically": "There is no attention.",
    "test_resize_embeddings is set|position embeddings|`inputs_embeds`": "The input is pixels, not tokens.",
    "Do not take a cache as input to forward": "There are no keys and values to keep in a cache.",
    "sequence-to-sequence|decoder-only language modeling": "The models write no text.",
    "does not support grouped_mm|no sparse experts|output_router_logits": "There are no experts.",
    "has no `base_model_class` defined|not (support|have) RoPE|no axial RoPE": "There are no position embeddings.",
    "does not have a TP plan": "The models are small and plan no tensor parallelism.",
    "_keep_in_fp32_modules": "Every module works in half precision (test_export), so none is kept in fp32.",
    "No conversion found": "The weights are saved under the names of the modules: there is nothing to convert.",
    "`capture_outputs` decorator|Cannot capture hidden states": "forward collects its maps itself, without hooks.",
    "No subconfigs so": "The extractor's config holds no other config.",
    "is not (a )?composite": "The model joins convolutional networks, not Transformers models with attention.",
    "available to verify enable_input_require_grads": "Without embeddings there is no input to make differentiable.",
    "requires (multiple )?accelerator|requires (MPS|deepspeed)": "No such accelerator here, or no DeepSpeed.",
    "requires the kernels library": "The models use no kernels from the Hub.",
    "less than 2 backends": "There is one image processor, on torchvision, and none on Pillow to compare.",
    "No validation found for `preprocess`": "TorchvisionBackend checks calls by itself, without a list of arguments.",
    "test is slow": "Downloads or measures large models; Transformers runs these only on demand.",
    "Could not locate the classification Linear": "After its checks of errors and report the test looks for a "
    "head of another kind; test_mismatched_head_keeps_the_rest goes on from there.",
}


def explain(reason: str) -> str | None:
    """The sentence for a reason to skip; `None` if there is none."""
    return next((sentence for pattern, sentence in EXPLANATIONS.items() if re.search(pattern, reason)), None)
