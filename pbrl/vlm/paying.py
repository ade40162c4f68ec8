"""A reply that is paid for: within the budget, and kept before it is used."""

import asyncio

from pbrl.vlm.budget import Budget
from pbrl.vlm.client import Client
from pbrl.vlm.messages import Reply, Request
from pbrl.vlm.transcript import Transcript


async def pay(client: Client, transcript: Transcript, budget: Budget, model: str, request: Request) -> Reply:
    """A model's reply to a request, which the transcript then has. Raises UserError, NoReply or BudgetReached."""
    reserved = budget.reserve(request)
    try:
        await asyncio.to_thread(transcript.prepare, request)
        reply = await client.complete(request)
    except BaseException:
        budget.settle(reserved, None)
        raise
    budget.settle(reserved, reply)
    await asyncio.to_thread(transcript.add, request, model, reply)
    return reply
