"""The fake engine: deterministic words without weights, so that the whole stack can be tested."""

from mooring.engines.base import EngineDef
from mooring.engines.fake.dialect import FakeDialect
from mooring.types import Capability, ModelFormat

ENGINE = EngineDef(
    name="fake",
    worker_module="mooring.engines.fake.worker",
    dialect=FakeDialect(),
    formats=frozenset(ModelFormat),
    capabilities=frozenset(Capability),
    native_n=False,
)
