"""Joint training: GRPO for the policy and the SPR loss for the head, from final answers alone, in one forward.

It stands on TRL's `GRPOTrainer` (`trainer.py` says what is overridden). `train_joint` in `run.py` is the way in.
"""
