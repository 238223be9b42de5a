"""Many jobs, wherever they run: a function and items go in, results come out as they finish."""

from excise.cluster.fleet import Fleet, Here, require_fleet
from excise.cluster.ray_fleet import OnRay

__all__ = ["Fleet", "Here", "OnRay", "require_fleet"]
