"""What may be spent on a model, and what was: nothing is asked that could cost more than is left."""

from collections.abc import Mapping
from dataclasses import dataclass

from pbrl.types import UserError
from pbrl.vlm.messages import Reply, Request

LETTERS_PER_TOKEN = 4.0  # of English, for estimates
MILLION = 1e6


class BudgetReached(UserError):
    """The next request may cost more than is left."""


@dataclass(frozen=True)
class Price:
    """US dollars a million tokens; None where no price was set."""

    input: float | None
    output: float | None

    def __call__(self, prompt_tokens: float, reply_tokens: float) -> float | None:
        """What so many tokens cost; None where no price was set."""
        if self.input is None or self.output is None:
            return None
        return (prompt_tokens * self.input + reply_tokens * self.output) / MILLION


@dataclass(frozen=True)
class Limits:
    """The most questions, tokens (prompts and replies together) and US dollars; None: any number."""

    questions: int | None = None
    tokens: int | None = None
    money: float | None = None


class Budget:
    """Counts requests, tokens and cost as they come, and refuses what could go over the limits.

    A request reserves what it can cost at most before it is sent; `settle` replaces that by what it did. Replies out of
    the transcript cost nothing.
    """

    def __init__(self, limits: Limits, price: Price, *, picture_tokens: int):
        if limits.money is not None and price(1, 1) is None:
            raise UserError("vlm.budget.money needs prices: set vlm.price.input and vlm.price.output (US$ a million)")
        self.limits, self.price, self.picture_tokens = limits, price, picture_tokens
        self.questions = self.requests = self.kept = self.prompt_tokens = self.reply_tokens = 0
        self.reserved = [0.0, 0.0]  # prompt and reply tokens of requests that are under way

    @property
    def tokens(self) -> int:
        """Spent, of prompts and replies."""
        return self.prompt_tokens + self.reply_tokens

    @property
    def cost(self) -> float | None:
        """In US dollars; None where no price was set."""
        return self.price(self.prompt_tokens, self.reply_tokens)

    def begin_question(self) -> None:
        """Raises BudgetReached where no question is left."""
        if self.limits.questions is not None and self.questions >= self.limits.questions:
            raise BudgetReached(f"vlm.budget.questions={self.limits.questions} is reached")
        self.questions += 1

    def return_question(self) -> None:
        """Gives a question back that cost nothing, its replies being kept already."""
        self.questions -= 1

    def estimate(self, request: Request) -> tuple[float, float]:
        """Tokens of the prompt, about, and of the reply, at most."""
        letters = sum(len(part) for part in request.parts if isinstance(part, str))
        return letters / LETTERS_PER_TOKEN + self.picture_tokens * len(request.pictures), float(request.max_tokens)

    def reserve(self, request: Request) -> tuple[float, float]:
        """Sets aside what a request can cost. Raises BudgetReached where that is more than is left."""
        prompt, reply = self.estimate(request)
        all_prompt, all_reply = self.prompt_tokens + self.reserved[0] + prompt, self.reply_tokens + self.reserved[1]
        if self.limits.tokens is not None and all_prompt + all_reply + reply > self.limits.tokens:
            raise BudgetReached(f"vlm.budget.tokens={self.limits.tokens} is reached: {self.tokens} are spent")
        cost = self.price(all_prompt, all_reply + reply)
        if self.limits.money is not None and cost is not None and cost > self.limits.money:
            raise BudgetReached(f"vlm.budget.money={self.limits.money} is reached: {self.cost:.4f} are spent")
        self.reserved[0] += prompt
        self.reserved[1] += reply
        return prompt, reply

    def settle(self, reserved: tuple[float, float], reply: Reply | None) -> None:
        """Ends a reservation; of a request without a reply nothing is counted."""
        self.reserved[0] -= reserved[0]
        self.reserved[1] -= reserved[1]
        if reply is not None:
            self.requests += 1
            self.prompt_tokens += reply.prompt_tokens
            self.reply_tokens += reply.reply_tokens

    def summary(self) -> Mapping[str, float | None]:
        """What was spent: questions, requests, kept replies, tokens and cost."""
        return {
            "questions": self.questions,
            "requests": self.requests,
            "kept": self.kept,
            "prompt_tokens": self.prompt_tokens,
            "reply_tokens": self.reply_tokens,
            "cost": self.cost,
        }
