"""Online RL on a learnt reward: Stable-Baselines3's SAC acts on states, and each episode is rewarded when it ends.

So the reward may be of whole videos, as RAPL's is (Tian et al. 2023, arXiv:2310.07932): an episode is rendered once,
matched with the preferred videos, and its rewards are written into the replay buffer. `LearnedReward`,
`LearnedRewardEnv` and `EpisodeReplayBuffer` serve your own code with Stable-Baselines3; `python -m pbrl.online` is a
whole run.
"""
