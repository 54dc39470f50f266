"""A model's `generation_config.json`, made valid where its makers left it invalid.

Many models come with a `temperature` and no `do_sample`. transformers loads such a config and refuses to save it, which
would lose a trained model at the very end.
"""

from __future__ import annotations

from typing import Any, Final

TOKEN_IDS: Final = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def make_valid(model: Any) -> None:
    """Make the model's generation config one that transformers saves.

    Settings of sampling without `do_sample` mean that the model is to be sampled from. What is invalid even then loses
    everything but its token ids.
    """
    config = getattr(model, "generation_config", None)
    if config is None or _is_valid(config):
        return
    before, config.do_sample = getattr(config, "do_sample", None), True
    if _is_valid(config):
        return
    config.do_sample = before
    plain = type(config)()
    for name in TOKEN_IDS:
        setattr(plain, name, getattr(config, name, None))
    model.generation_config = plain


def _is_valid(config: Any) -> bool:
    try:
        config.validate(strict=True)
    except TypeError:  # transformers before 4.57 knows no strictness here, and refuses what it would only warn of
        return _saves_without_warning(config)
    except ValueError:
        return False
    return True


def _saves_without_warning(config: Any) -> bool:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            config.validate()
        except (UserWarning, ValueError):
            return False
    return True
