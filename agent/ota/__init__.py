"""Cloud to configuration: where the collection plan that runs comes from.

A *bundle* is one plan with its database files: data, nothing that is executed. An operator signs
bundles into a TUF repository, plain files on any web server (`operator`); a vehicle takes them from
there, tries them, and goes back when they do harm:

    look      `client`   the repository's word, verified by python-tuf within our own durable floors
    choose    `choice`   what of it is for this vehicle: groups, globs, a share of the fleet
    fetch     `bundle`   the archive, bounded and checked; kept whole before anything names it
    rehearse             decode and collect the last seconds of real frames with it, beside the run
    try       `judge`    switch between two blocks; frames, ledger, disk, CPU, uploads must do well
    stay or go back      `record`: one small durable file says what runs, and what is on trial

Every step is one change of that record, made durable before what follows from it is done: from any
point at which the power may go, a start finds the plan before the step or the one behind it, whole.
A start in the middle of a trial counts as one more try, and after three that came to no verdict the
bundle is taken back: a plan that kills the process, or the computer, cannot strand the vehicle. The
factory plan, a file that `agent.toml` names, always remains.

Nothing that comes this way can change what the device file says: identity, whom to trust first,
endpoints, bus wiring, diagnostic requests, the right to transmit.
"""

from agent.ota.factory import build_plan, load_factory_plan

__all__ = ["build_plan", "load_factory_plan"]
