"""Machines of AWS for Ray's cluster launcher: spot ones first, on demand where AWS has none.

Ray goes on asking for a type of node that is refused; see ``provider`` in cluster.yaml.
"""

import logging
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException

logger = logging.getLogger(__name__)

_SPOT = "InstanceMarketOptions"
_NOT_ALLOWED = ("AuthFailure", "UnauthorizedOperation")
"""How AWS says that it is not the machines that are missing, but a right."""


class SpotFirst(AWSNodeProvider):  # type: ignore[misc]
    """Asks for what a node type says, and for the same on demand where spot ones are refused."""

    def create_node(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int
    ) -> dict[str, Any]:
        """The machines made, by their ids; at most ``count``.

        Raises NodeLaunchException where AWS gives neither, or where a right is missing, such as
        the role that spot machines need once in an account. Of several zones Ray tells the last
        one's reason alone, so any other is taken for a lack of spot machines: what is wrong with
        the request itself is refused once more.
        """
        try:
            return dict(super().create_node(node_config, tags, count))
        except NodeLaunchException as error:
            if _SPOT not in node_config or error.category.startswith(_NOT_ALLOWED):
                raise
            logger.warning("no spot machine (%s), asking on demand", error.category)
        on_demand = {key: value for key, value in node_config.items() if key != _SPOT}
        return dict(super().create_node(on_demand, tags, count))
