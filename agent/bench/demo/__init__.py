"""`make demo`: the main job on one machine, with three vehicles, checked at the end.

Processes of their own: the reference cloud, an agent for each vehicle, and the virtual car on a
serial adapter. Between the car's agent and the cloud lies a link that is cut and restored. Truck
and charging car are played from recordings that `edge-agent simulate` has made, faster than real.

At the end of each the ledger must close, and the cloud must have every sample, campaign by
campaign, and each event that the vehicle's plan is there to find. With a recording of one's own
(`LOG=`, `DBC=`) there is one run, and each signal's count and sum are compared with the recording
decoded directly.

    __main__   the command line, and the order of things
    runs       one vehicle: from its start to its last status
    processes  starting and ending the others, and asking them
    recording  a recording of one's own: decoded directly, and compared
    arrived    what the cloud has of a vehicle
    telling    what is printed
"""
