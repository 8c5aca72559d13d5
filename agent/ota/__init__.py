"""Cloud to configuration: where the collection plan that runs comes from.

Today that is the factory plan, the file that `agent.toml` names. A plan is data: it names signals,
rates and uplinks, and nothing that the device file decides.
"""

from agent.ota.factory import build_plan, load_factory_plan

__all__ = ["build_plan", "load_factory_plan"]
