"""How the tiny models are wired that real servers serve: they answer "1" or "2", and nothing but chance decides which.

All weights are random but for two places of the 32 that a token's vector has. No layer writes to these: the first is
the same for every token and picture, and makes both digits likely; the second is set for digits alone, and makes the
end of the reply likely after one. Elsewhere the logits of "1" and "2" are opposite.
"""

WIDTH, HIDDEN, LAYERS, HEADS = 32, 64, 2, 2  # of the language model, and of its eyes
SIDE, PATCH = 56, 14  # pixels
SPREAD, WORD_SPREAD = 0.3, 0.3  # standard deviations of weights, and of those before the tokens' logits
ALWAYS, AFTER_DIGIT = 0, 1  # the two places
ALWAYS_VALUE, AFTER_DIGIT_VALUE = 4.0, 20.0  # what stands there
DIGIT_GAIN, END_GAIN = 60.0, 80.0  # of the logits of digits, and of the end
