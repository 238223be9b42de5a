"""Within: let a method find its place when its turn comes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from excise import errors
from excise.data.split import Split
from excise.localize.base import Region
from excise.localize.given import Given
from excise.localize.head import Head
from excise.localize.last_layers import LastLayers
from excise.localize.modules import Convolutions, Everything, Modules
from excise.masks import Mask
from excise.methods.base import Method, Need, Wrapping, require_method
from excise.train.engine import Engine


@dataclass(frozen=True)
class Within(Wrapping):
    """Run a method on the part of the mask that lies in a region, found on the network as it is then.

    A recipe's own region is found once, on the network before the run. In a sequence this one sees what the parts before
    it left, and may be another for each part. A region and a mask that share nothing are no error: the method runs under an
    empty mask, which moves no weight. What `Widened` and `Soften` add to the mask they add before or after the cut, as they
    stand outside or inside.

    Reads and costs what the method and the region do. Outside the mask nothing moves.

    Args:
        method: what to run.
        where: the region.

    Raises:
        errors.BadRequest: no method, or no region; before any work, what the method refuses, and layers that are not there.
        errors.MaskMismatch: before any work, a module that is not there, or a given mask of another network.
    """

    method: Method
    where: Region

    def __post_init__(self) -> None:
        """Check that there are a method and a region."""
        require_parts("Within", self.method, self.where)

    @property
    def needs(self) -> frozenset[Need]:
        """What the method needs, and what the region reads."""
        return self.method.needs | read_by(self.where)

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse a region that cannot be found, where no pass is needed to tell, and what the method refuses there."""
        place = foreseen(self.where, model, split, engine)
        self.method.require(model, split, Mask.empty(model) if place is None else mask & place, engine)

    def unlearn_(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Find the region, then run the method, in place."""
        self.method.unlearn_(model, split, mask & self.where.locate(model, split, engine), engine)


def read_by(region: Region) -> frozenset[Need]:
    """Give what a region reads, in the words of what a method needs."""
    found: dict[Need, bool] = {"forget": region.reads_forget, "retain": region.reads_retain}
    return frozenset(name for name, reads in found.items() if reads)


def foreseen(region: Region, model: nn.Module, split: Split, engine: Engine) -> Mask | None:
    """Give the mask of a region that no weight's value decides; None for others, which are found when their turn comes.

    One forget row is run at most, for `LastLayers` and for a `Head` without a name.
    """
    known = isinstance(region, Everything | Modules | Convolutions | Given | Head | LastLayers)
    return region.locate(model, split, engine) if known else None


def require_parts(name: str, method: object, region: object) -> None:
    """Refuse what is no method, or no region."""
    require_method(name, method)
    if not isinstance(region, Region):
        found = type(region).__name__
        raise errors.BadRequest(f"{name}: expected a region such as Convolutions(), found {found}")
