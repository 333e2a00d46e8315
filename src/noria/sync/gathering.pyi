# The types are those of the standard library's.
from asyncio import gather as gather, shield as shield
