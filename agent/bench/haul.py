"""What the virtual truck does: one haul after another, as columns of physical values.

A haul takes 240 s: the driver starts the engine, drives 32 t up to 80 km/h, up a hill on which the
engine becomes too hot, down again on the engine brake, and stops. The way is a closed loop and
comes back to its height, so that hauls follow one another. What goes on from one to the next
(distance, hours, fuel, temperatures) is in `Life`.

While the coolant is above 103 degC there is a trouble code, and a second one while the oil is above
106 degC. Everything is computed on a grid of 10 ms for a whole haul at once.
"""

import dataclasses
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.bench.curves import STEP_S, Columns, during, joined, lag, smooth, uniform
from agent.blocks import Float64

HAUL_S: Final = 240
STEPS: Final = 100 * HAUL_S

_MASS: Final = 32_000.0  # kg
_WHEEL_RADIUS: Final = 0.5  # m
_AXLE: Final = 2.85
_GEARS: Final = 12
_GEAR_STEP: Final = 1.277  # the twelfth is direct
_TORQUE: Final = 2600.0  # Nm, the reference of percentages
_RETARDER: Final = 3200.0  # Nm at the crankshaft
_IDLE: Final = 600.0  # rpm
_TANK: Final = 600.0  # L
_LITRES: Final = 0.235  # L in an hour for each kW
_GRAVITY: Final = 9.81
_KEY: Final = (2.0, 225.0)  # s
_ENGINE: Final = (4.0, 220.0)
_SPEED: Final = (
    (8, 0), (64, 78), (66, 78), (78, 58), (130, 58), (150, 80), (178, 80), (198, 0),
)  # fmt: skip
_CRUISE: Final = (64.0, 176.0)


@dataclasses.dataclass(frozen=True)
class Truck:
    """What a seed decides once: this very truck, its surroundings and where it is."""

    seed: int
    vin: str
    ambient: float
    latitude: float
    longitude: float
    heading: float

    @classmethod
    def of(cls, seed: int) -> "Truck":
        u = uniform(seed, "truck", np.arange(4)).tolist()
        return cls(
            seed,
            vin=f"WEA1J1939XTRK{seed % 10_000:04d}",
            ambient=12 + 14 * u[0],
            latitude=47 + 2 * u[1],
            longitude=8 + 4 * u[2],
            heading=360 * u[3],
        )


@dataclasses.dataclass(frozen=True)
class Life:
    """What goes on from one haul to the next."""

    distance: float  # km
    hours: float
    turns: float
    burnt: float  # L
    lasting: dict[str, float]  # what lags behind -> its value at the end of the last haul

    @classmethod
    def begin(cls, truck: Truck) -> "Life":
        distance = 80_000 + 400_000 * float(uniform(truck.seed, "distance", np.arange(1))[0])
        return cls(distance, distance / 62, distance / 62 * 60 * 1150, distance * 0.31, {})


class Haul:
    """Haul number `index` of a truck: `columns`, `codes`, and `life` as it is afterwards."""

    def __init__(self, truck: Truck, index: int, life: Life) -> None:
        self.truck = truck
        self.t: Float64 = np.arange(STEPS, dtype=np.float64) * STEP_S
        self.columns: Columns = {}
        self._index = index
        self._before = life
        self._lasting: dict[str, float] = {}
        self._running = during(self.t, _ENGINE)
        self._motion()
        self._driveline()
        self._engine()
        self._heat()
        self._brakes()
        self._rest()
        c = self.columns
        self.life = Life(
            float(c["TotalDistance"][-1]),
            float(c["EngineHours"][-1]),
            float(c["EngineRevolutions"][-1]),
            self._burnt,
            self._lasting,
        )

    def _set(self, **columns: Any) -> None:
        for name, value in columns.items():
            self.columns[name] = np.broadcast_to(np.asarray(value, np.float64), STEPS)

    def _follow(self, name: str, target: Any, tau_s: float, start: float) -> Float64:
        """What lags behind its target, and goes on from the haul before."""
        wanted = np.broadcast_to(np.asarray(target, np.float64), STEPS)
        out = lag(wanted, tau_s, self._before.lasting.get(name, start))
        self._lasting[name] = float(out[-1])
        return out

    def _motion(self) -> None:
        t, truck = self.t, self.truck
        v = np.maximum(joined(t, _SPEED) / 3.6, 0)
        v[v < 1e-6] = 0  # what rounding leaves of the sum of steps
        way = np.cumsum(v) * STEP_S
        around = 2 * np.pi * way / way[-1]
        course = np.radians(truck.heading) - around
        north = np.cumsum(v * np.cos(course)) * STEP_S
        east = np.cumsum(v * np.sin(course)) * STEP_S
        up = 0.056 * (smooth((t - 66) / 8) - smooth((t - 126) / 8))
        down = 0.056 * (smooth((t - 144) / 6) - smooth((t - 180) / 6))
        # As far down as up, or the truck would climb from haul to haul.
        slope = up - down * (up * v).sum() / (down * v).sum()
        self._v, self._a, self._slope, self._still = v, np.gradient(v, STEP_S), slope, v < 0.03
        yaw = np.degrees(v * 2 * np.pi / way[-1])
        half = np.radians(yaw) * 1.0 * 3.6  # km/h: the track is 2 m wide
        self._set(
            WheelSpeed=v * 3.6, TachographSpeed=v * 3.6, FrontAxleSpeed=v * 3.6,
            FrontLeftRelative=-half, FrontRightRelative=half, RearLeftRelative=-half,
            RearRightRelative=half, VehicleMotion=~self._still,
            TotalDistance=self._before.distance + way / 1000, TripDistance=way / 1000,
            Latitude=truck.latitude + north / 111_320,
            Longitude=truck.longitude + east / (111_320 * np.cos(np.radians(truck.latitude))),
            BarometricPressure=96 - 0.0118 * np.cumsum(v * slope) * STEP_S,
        )  # fmt: skip

    def _driveline(self) -> None:
        v, running = self._v, self._running
        shaft = v / _WHEEL_RADIUS * _AXLE * 60 / (2 * np.pi)
        wanted = np.where(self._slope > 0.02, 1450, 1250)
        steps = np.log(wanted / np.maximum(shaft, 1)) / np.log(_GEAR_STEP)
        driving = running & ~self._still
        gear = np.where(driving, np.clip(_GEARS - np.rint(steps), 1, _GEARS), 0)
        ratio = np.where(gear > 0, _GEAR_STEP ** (_GEARS - gear), 0)
        # A shift shows in the half second around the moment in which the gear changes.
        changes = np.flatnonzero(np.diff(gear))
        shifting = np.zeros(STEPS, np.bool_)
        for step in changes.tolist():
            shifting[max(step - 25, 0) : step + 25] = True
        shifting &= driving
        speed = np.where(running, np.maximum(shaft * ratio, _IDLE), 0)
        self._speed = self._follow("speed", speed, 0.2, 0)
        self._speed[self._speed < 1] = 0
        self._shifting = shifting
        self._set(
            OutputShaftSpeed=shaft, TachographShaftSpeed=shaft, InputShaftSpeed=shaft * ratio,
            CurrentGear=gear, SelectedGear=np.append(gear[30:], np.zeros(30)), GearRatio=ratio,
            DrivelineEngaged=driving & ~shifting, ConverterLockup=3, ShiftInProcess=shifting,
            ClutchSlip=np.where(driving & (shaft * ratio < _IDLE), 40, 0),
            ClutchSwitch=shifting | (running & self._still), OverspeedEnable=0,
            ProgressiveShiftDisable=0, OverrideMode=np.where(shifting, 1, 0),
            RequestedSpeedCondition=0, OverridePriority=np.where(shifting, 1, 3),
            RequestedSpeed=np.where(shifting, np.append(speed[40:], np.zeros(40)), 0),
            RequestedTorque=0,
        )  # fmt: skip

    def _engine(self) -> None:
        v, t = self._v, self.t
        moving = ~self._still
        force = _MASS * (self._a + _GRAVITY * (self._slope + 0.006 * moving)) + 3.6 * v**2
        power = np.where(moving, force * v, 0)
        omega = np.maximum(self._speed, _IDLE) * 2 * np.pi / 60
        work = np.maximum(power, 0) / 0.93 + 9000 * self._running
        torque = np.where(self._running & ~self._shifting, work / omega, 0)
        load = np.clip(100 * torque / _TORQUE, 0, 100)
        overrun = moving & (power < 0)
        friction = np.where(self._running, 5 + self._speed / 400, 0)
        indicated = np.where(self._running & ~overrun, np.minimum(load + friction, 100), 0)
        fuel = np.where(overrun, 0, _LITRES * load / 100 * _TORQUE * omega / 1000 + 1.5)
        fuel = _lagged(np.where(self._running, fuel, 0), 0.1)
        used = np.cumsum(fuel) * STEP_S / 3600
        self._burnt = self._before.burnt + float(used[-1])
        self._load, self._power = load / 100, power
        hours = np.cumsum(self._running) * STEP_S / 3600
        kmh = v * 3.6
        # The tank is filled when a tenth is left.
        level = 10 + (80 - 100 * (self._before.burnt + used) / _TANK) % 80
        pedal = np.where(during(t, _CRUISE), 0, load)
        self._set(
            TorqueMode=np.where(during(t, _CRUISE), 2, np.where(pedal > 5, 1, 0)),
            DriverDemandTorque=np.where(pedal > 5, indicated, 0), EngineTorque=indicated,
            DemandTorque=indicated, EngineSpeed=self._speed, ControllingDevice=0,
            StarterMode=np.where(during(t, (_ENGINE[0] - 0.8, _ENGINE[0])), 1, 0),
            PedalLowIdle=pedal < 1, PedalKickdown=pedal > 98, AcceleratorPedal=pedal,
            EngineLoad=load, MaximumTorque=100, FrictionTorque=friction, DesiredSpeed=_IDLE,
            FuelRate=fuel, FuelEconomy=np.minimum(kmh / np.maximum(fuel, 0.01), 125),
            AverageFuelEconomy=(self._before.distance + self.columns["TripDistance"])
            / (self._before.burnt + used),
            Throttle=indicated, FuelLevel=level, EngineHours=self._before.hours + hours,
            EngineRevolutions=self._before.turns + np.cumsum(self._speed) * STEP_S / 60,
            BoostPressure=240 * self._load, CruiseSetSpeed=80, CruiseEnabled=during(t, _KEY),
            CruiseActive=during(t, _CRUISE), CruiseSet=during(t, (_CRUISE[0], _CRUISE[0] + 0.4)),
            CruiseCoast=0, CruiseResume=0, CruiseAccelerate=0, PtoState=0,
            CruiseState=np.where(during(t, _CRUISE), 1, 0),
        )  # fmt: skip

    def _heat(self) -> None:
        ambient, running = self.truck.ambient, self._running
        work = self._follow("work", 95 * np.clip(self._load - 0.65, 0, 1) * running, 16, 0)
        coolant = self._follow("coolant", np.where(running, 84 + work, 80), 4, 80)
        oil = self._follow("oil", np.where(running, coolant + 4 + 3 * self._load, 80), 8, 82)
        intake = self._follow("intake", ambient + 8 + 25 * self._load, 15, ambient + 8)
        exhaust = self._follow("exhaust", np.where(running, 160 + 330 * self._load, 80), 6, 90)
        self.codes: tuple[NDArray[np.bool_], ...] = (coolant > 103, oil > 106)
        self._set(
            CoolantTemperature=coolant, OilTemperature=oil, TurboOilTemperature=oil + 6,
            FuelTemperature=ambient + 12, IntercoolerTemperature=intake, ExhaustTemperature=exhaust,
            IntercoolerThermostat=np.clip(4 * (coolant - 82), 0, 100), IntakeTemperature=intake,
            AirInletTemperature=ambient + 3, AmbientTemperature=ambient,
            RoadTemperature=ambient + 5,
            CabTemperature=self._follow("cab", np.where(running, 21, ambient + 3), 90, 20),
            AirInletPressure=96,
        )  # fmt: skip

    def _brakes(self) -> None:
        omega = np.maximum(self._speed, _IDLE) * 2 * np.pi / 60
        braking = np.where(self._v > 0.5, np.maximum(-self._power, 0) / omega, 0)
        retarder = np.minimum(braking, _RETARDER) * (self._v > 4) * ~self._shifting
        service = np.clip(np.maximum(braking - retarder, 0) / 60, 0, 60)
        held = self._running & self._still & ~during(self.t, (200, HAUL_S))
        pedal = _lagged(np.where(held, 25.0, service), 0.15)
        pressed = pedal > 2
        torque = -100 * retarder / _RETARDER
        self._set(
            RetarderTorqueMode=np.where(retarder > 1, 1, 0), RetarderEnabled=1,
            RetarderTorque=_lagged(torque, 0.2), RetarderIntendedTorque=torque,
            AsrEngineActive=0, AsrBrakeActive=0, AbsActive=0, AbsOperational=1,
            BrakeSwitch=pressed, BrakePedal=pedal,
            ParkingBrake=during(self.t, (0, 7), (200, HAUL_S)),
        )  # fmt: skip

    def _rest(self) -> None:
        t, running = self.t, self._running
        now = self._index * HAUL_S + t
        day = np.datetime64("2026-01-01") + (now // 86_400).astype("timedelta64[D]")
        month = day.astype("datetime64[M]")
        volts = self._follow("volts", np.where(running, 28.1, 25.0), 0.5, 25)
        self._set(
            DriverWorking=np.where(self._still, 2, 3), CoDriverWorking=0, DriverTimeState=0,
            DriverCard=1, Overspeed=0, Second=now % 60 // 0.25 * 0.25, Minute=now // 60 % 60,
            Hour=now // 3600 % 24, Month=month.astype(np.int64) % 12 + 1,
            Day=(day - month).astype(np.int64) + 1, Year=month.astype(np.int64) // 12 + 1970,
            FuelPressure=np.where(running, 520, 0), OilLevel=88, CoolantLevel=92,
            OilPressure=np.where(running, 150 + self._speed / 5, 0), CrankcasePressure=1,
            CoolantPressure=np.where(running, 110, 0), BatteryCurrent=np.where(running, 6, -9),
            AlternatorCurrent=np.where(running, 48, 0), ChargingVoltage=volts,
            BatteryVoltage=volts - 0.1, KeySwitchVoltage=volts - 0.3, WasherFluid=64,
        )  # fmt: skip


def _lagged(target: Float64, tau_s: float) -> Float64:
    return lag(target, tau_s, float(target[0]))
