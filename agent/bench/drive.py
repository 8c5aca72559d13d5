"""What the virtual car does: one drive cycle after another, as columns of physical values.

A cycle takes 300 s: the driver gets in, drives through a town, along a fast road and back into
town, parks, and charges at a DC station exactly what the drive took out; so the state of charge
comes back to where it began however long the vehicle runs. The way is a closed loop for the same
reason. What goes on from cycle to cycle (odometer, energy counters, temperatures) is in `Life`.
When things happen is a `Schedule`; there are others than that of the day described here.

Everything is computed on a grid of 10 ms for a whole cycle at once.
"""

import dataclasses
from typing import Any, Final

import numpy as np

from agent.bench.curves import STEP_S, Columns, during, joined, lag, normal, smooth, uniform
from agent.blocks import Float64, Int64

CYCLE_S: Final = 300
STEPS: Final = 100 * CYCLE_S
CELLS: Final = 96
MODULES: Final = 24

CAPACITY_AH: Final = 120.0
PACK_RESISTANCE: Final = 0.07  # ohm
_MASS: Final = 1750.0  # kg, with driver
_WHEEL_RADIUS: Final = 0.33  # m
_GEAR: Final = 9.0
_TRACK: Final = 1.58  # m
_WHEELBASE: Final = 2.7  # m
_MAX_TORQUE: Final = 310.0  # Nm at the motor
_GRAVITY: Final = 9.81
_OCV: Final = (  # state of charge in %, open-circuit voltage of a cell in V
    (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100),
    (3.00, 3.32, 3.43, 3.52, 3.58, 3.62, 3.67, 3.75, 3.85, 3.95, 4.06, 4.19),
)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When things happen in a cycle, s."""

    speed: tuple[tuple[float, float], ...]
    """(s, km/h), joined by smooth steps; from standstill to standstill."""
    hill: float
    """How far the way goes up and down from its mean, m."""
    ready: float
    """The driver has started the car ..."""
    off: float
    """... and switches it off."""
    plugged: float
    full: float
    """The station stops."""
    tunnel: tuple[float, float] = (0, 0)
    turns: tuple[tuple[float, float, int], ...] = ()
    """(from, to, 1 left or 2 right) of the turn signal."""
    current: float | None = None
    """Charging current in A; None charges what the drive took out."""
    target: float | None = None
    """State of charge at which the station stops, %; None is that of the beginning."""


DAY: Final = Schedule(
    speed=(
        (10, 0), (18, 50), (47, 50), (57, 0), (66, 0), (76, 60), (86, 60), (96, 100), (135, 100),
        (147, 50), (157, 50), (167, 0),
    ),
    hill=8, ready=7, off=172, plugged=182, full=280, tunnel=(112, 124),
    turns=((52, 68, 1), (156, 167, 2)),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Car:
    """What a seed decides once: this very vehicle, its surroundings and where it is."""

    seed: int
    charge: float
    health: float
    ambient: float
    latitude: float
    longitude: float
    heading: float
    cell_offset: Float64  # mV[CELLS]
    cell_resistance: Float64  # mV a A, [CELLS], beyond the mean
    module_offset: Float64  # K[MODULES]
    module_warmth: Float64  # K at 90 A that last, [MODULES], beyond the mean

    @classmethod
    def of(cls, seed: int) -> "Car":
        u = uniform(seed, "car", np.arange(6)).tolist()
        return cls(
            seed,
            charge=58 + 14 * u[0],
            health=94 + 5 * u[1],
            ambient=10 + 16 * u[2],
            latitude=50 + 2 * u[3],
            longitude=8 + 4 * u[4],
            heading=360 * u[5],
            cell_offset=2.5 * normal(seed, "cell offset", np.arange(CELLS)),
            cell_resistance=0.02 * normal(seed, "cell resistance", np.arange(CELLS)),
            module_offset=0.6 * normal(seed, "module offset", np.arange(MODULES)),
            module_warmth=np.zeros(MODULES),
        )


@dataclasses.dataclass(frozen=True)
class Life:
    """What goes on from one cycle to the next."""

    odometer: float
    discharged: float
    charged: float
    lasting: dict[str, float]  # signal -> value at the end of the last cycle

    @classmethod
    def begin(cls, car: Car) -> "Life":
        odometer = 4000 + 40_000 * float(uniform(car.seed, "odometer", np.arange(1))[0])
        return cls(odometer, 0.19 * odometer, 0.2 * odometer + CAPACITY_AH * 0.35, {})


def _lag(target: Any, tau_s: float, start: float) -> Float64:
    return lag(np.broadcast_to(np.asarray(target, np.float64), STEPS), tau_s, start)


class Cycle:
    """Cycle number `index` of a car: `columns`, and `life` as it is afterwards."""

    def __init__(self, car: Car, index: int, life: Life, schedule: Schedule = DAY) -> None:
        self.car = car
        self._schedule = schedule
        self.t: Float64 = np.arange(STEPS, dtype=np.float64) * STEP_S
        self.columns: Columns = {}
        self._life = life
        self._lasting: dict[str, float] = {}
        self._pace = 0.93 + 0.12 * float(uniform(car.seed, "pace", np.array([index]))[0])
        self._ready = during(self.t, (schedule.ready, schedule.off))
        self._motion()
        self._powertrain()
        self._battery()
        self._charging()
        self._inputs()
        self._body()
        c = self.columns
        self.life = Life(
            float(c["Odometer"][-1]),
            float(c["EnergyDischarged"][-1]),
            float(c["EnergyCharged"][-1]),
            self._lasting,
        )

    def _set(self, **columns: Any) -> None:
        for name, value in columns.items():
            self.columns[name] = np.broadcast_to(np.asarray(value, np.float64), STEPS)

    def _follow(self, name: str, target: Any, tau_s: float, start: float) -> Float64:
        """A column that lags behind its target, and goes on from the cycle before."""
        out = _lag(target, tau_s, self._life.lasting.get(name, start))
        self._lasting[name] = float(out[-1])
        self.columns[name] = out
        return out

    def _motion(self) -> None:
        t, car = self.t, self.car
        ready, off = self._schedule.ready, self._schedule.off
        speed = joined(t, self._schedule.speed)
        v = np.maximum(speed * self._pace / 3.6 * (1 + 0.012 * np.sin(t * 0.86)), 0)
        v[v < 1e-6] = 0  # what rounding leaves of the sum of steps
        a = np.gradient(v, STEP_S)
        way = np.cumsum(v) * STEP_S
        around = 2 * np.pi * way / way[-1]
        # A loop with two bends; it closes because the bends are a whole number a round.
        left = around + 0.3 * np.sin(2 * around)
        curvature = 2 * np.pi / way[-1] * (1 + 0.6 * np.cos(2 * around))
        yaw = v * curvature
        slope = self._schedule.hill * 2 * np.pi / way[-1] * np.cos(around)
        course = np.radians(car.heading) - left
        north = np.cumsum(v * np.cos(course)) * STEP_S
        east = np.cumsum(v * np.sin(course)) * STEP_S
        angle = np.degrees(np.arctan(_WHEELBASE * curvature)) * 15
        inner, outer = (v - yaw * _TRACK / 2) * 3.6, (v + yaw * _TRACK / 2) * 3.6
        self._v, self._a, self._slope, self._still = v, a, slope, v < 0.03
        tunnel = during(t, self._schedule.tunnel)
        self._set(
            VehicleSpeed=v * 3.6, LongitudinalAcceleration=a, LateralAcceleration=v * yaw,
            Standstill=self._still, DirectionOfTravel=~self._still,
            WheelSpeedFrontLeft=inner, WheelSpeedRearLeft=inner,
            WheelSpeedFrontRight=outer, WheelSpeedRearRight=outer,
            SteeringAngle=angle, SteeringRate=np.gradient(angle, STEP_S),
            SteeringTorque=0.03 * angle * np.minimum(v / 5, 1),
            HandsOnWheel=during(t, (ready - 1, off - 1)),
            YawRate=np.degrees(yaw), PitchRate=np.degrees(np.gradient(slope, STEP_S)),
            RollRate=-0.3 * np.gradient(v * yaw, STEP_S), VerticalAcceleration=_GRAVITY,
            Odometer=self._life.odometer + way / 1000, TripDistance=way / 1000,
            Latitude=car.latitude + north / 111_320,
            Longitude=car.longitude + east / (111_320 * np.cos(np.radians(car.latitude))),
            Altitude=120 + self._schedule.hill * np.sin(around), Heading=np.degrees(course) % 360,
            GnssSpeed=v * 3.6, SatellitesUsed=np.where(tunnel, 4, 17), GnssFix=2,
            HorizontalDilution=np.where(tunnel, 6.5, 0.8), RoadSlope=100 * slope,
            VehicleMass=_MASS, AmbientLight=np.where(tunnel, 250, 18_000),
        )  # fmt: skip

    def _powertrain(self) -> None:
        v = self._v
        moving = ~self._still
        force = _MASS * (self._a + _GRAVITY * (self._slope + 0.010 * moving)) + 0.38 * v**2
        wheel = np.where(moving, force, 0) * _WHEEL_RADIUS
        omega = v / _WHEEL_RADIUS * _GEAR
        # The motor brakes up to 65 kW, less and less towards standstill; brakes take the rest.
        most = np.minimum(160.0, 65e3 / np.maximum(omega, 1)) * np.clip(v / 2.5, 0, 1)
        torque = np.clip(wheel / _GEAR, -most, _MAX_TORQUE)
        torque = np.where(self._ready, torque, 0)
        friction = np.maximum(torque * _GEAR - wheel, 0)
        mechanical = torque * omega
        electrical = mechanical * np.where(mechanical > 0, 1 / 0.93, 0.90)
        electrical += 90.0 * (self._ready & moving)
        self._electrical, self._friction = electrical, friction
        self._loss = np.abs(electrical - mechanical) / 1000
        ambient = self.car.ambient
        coolant = self._follow(
            "DriveCoolantTemperature", ambient + 8 + 5 * self._loss, 180, ambient
        )
        stator = self._follow("StatorTemperature", coolant + 14 * self._loss, 60, ambient)
        self._follow("RotorTemperature", coolant + 0.8 * (stator - coolant), 90, ambient)
        self._follow("InverterTemperature", coolant + 5 * self._loss, 20, ambient)
        running = self._ready & (moving | (np.abs(torque) > 1))
        self._set(
            MotorSpeed=omega * 60 / (2 * np.pi), MotorTorque=torque,
            MotorTorqueRequest=np.append(torque[2:], [0, 0]),  # the motor follows 20 ms later
            InverterState=np.where(running, 3, np.where(self._ready, 2, 0)),
            PhaseCurrent=np.abs(torque) * 1.9 + 8 * running, InverterPower=electrical / 1000,
            DerateFactor=np.clip(100 - 2 * (stator - 140), 20, 100),
            RegenerationTorque=np.maximum(-torque, 0) * _GEAR, FrictionTorque=friction,
        )  # fmt: skip

    def _battery(self) -> None:
        t, car, when = self.t, self.car, self._schedule
        ready, plugged, full = when.ready, when.plugged, when.full
        charge_closed = during(t, (plugged + 9.5, full + 4))
        closed = during(t, (ready - 0.2, when.off + 1)) | charge_closed
        precharge = during(t, (ready - 1, ready - 0.2), (plugged + 8.5, plugged + 9.5))
        self._shape = (
            smooth((t - plugged - 12) / 6)
            * (1 - 0.35 * smooth((t - full + 30) / 25))
            * (1 - smooth((t - full + 6) / 5))
        )
        cabin = self._follow(
            "CabinTemperature", np.where(self._ready, 21, car.ambient + 4), 110, car.ambient + 4
        )
        cooler = np.where(self._ready, np.clip(250 * (cabin - 20.5), 0, 3500), 0)
        heater = np.where(self._ready, np.clip(250 * (21.5 - cabin), 0, 4000), 0)
        power = np.where(self._ready, self._electrical + 380 + cooler + heater, 0)
        capacity = CAPACITY_AH * car.health / 100 * 3600  # As
        before = self._life.lasting.get("charge", car.charge)
        charge = np.full(STEPS, before)
        for _ in range(2):  # once with the voltage at the start, once with that of the charge
            open_circuit = np.interp(charge, *_OCV) * CELLS
            discriminant = open_circuit**2 - 4 * PACK_RESISTANCE * power
            drive = (open_circuit - np.sqrt(discriminant)) / (2 * PACK_RESISTANCE)
            missing = drive.sum()
            if when.target is not None:
                missing += max(when.target - before, 0) / 100 * capacity / STEP_S
            peak = min(missing / self._shape.sum(), when.current or np.inf)
            current = drive - peak * self._shape
            charge = before - 100 * np.cumsum(current) * STEP_S / capacity
        voltage = open_circuit - PACK_RESISTANCE * current
        self._current, self._voltage, self._cooler = current, voltage, cooler
        self.cell_mean = 1000 * voltage / CELLS
        link = voltage * _lag(closed | precharge, 0.25, 0)
        pack = self._follow(
            "pack", car.ambient + 3 + 7 * _lag((current / 90) ** 2, 30, 0), 400, car.ambient
        )
        warm = self._follow("warm", (current / 90) ** 2, 90, 0)
        self._module_mean, self._module_warm = pack, warm
        self._lasting["charge"] = float(charge[-1])
        kwh = STEP_S / 3.6e6
        flow = voltage * current
        energy = charge / 100 * capacity / 3600 * 0.352  # kWh
        # Ten times a second is enough for what only messages of 100 ms carry.
        cells = self.cells(np.arange(0, STEPS, 10), np.arange(CELLS))
        held = {
            "CellVoltageMaximum": cells.max(0), "CellVoltageMinimum": cells.min(0),
            "CellOfMaximum": cells.argmax(0) + 1, "CellOfMinimum": cells.argmin(0) + 1,
        }  # fmt: skip
        modules = self.modules(np.arange(0, STEPS, 10), np.arange(MODULES))
        held["PackTemperatureMaximum"] = modules.max(0)
        held["PackTemperatureMinimum"] = modules.min(0)
        self._set(**{name: np.repeat(column, 10) for name, column in held.items()})
        accept = np.clip((96 - charge) * 2.5, 0, 70)
        self._set(
            PackVoltage=voltage, PackCurrent=current, LinkVoltage=link, InterlockClosed=1,
            CurrentSensorValid=1, InverterVoltage=link, RegenerationLimit=np.minimum(65, accept),
            InverterCurrent=self._electrical / voltage, CellVoltageMean=self.cell_mean,
            StateOfCharge=charge, DisplayedCharge=np.clip((charge - 3) / 0.94, 0, 100),
            StateOfHealth=car.health, RemainingEnergy=energy, Range=energy / 0.165,
            EnergyDischarged=self._life.discharged + np.cumsum(np.maximum(flow, 0)) * kwh,
            EnergyCharged=self._life.charged + np.cumsum(np.maximum(-flow, 0)) * kwh,
            BatteryState=np.where(
                precharge, 2, np.where(charge_closed, 4, np.where(closed, 3, 1))
            ),
            PositiveContactor=np.where(closed, 2, precharge),
            NegativeContactor=np.where(closed | precharge, 2, 0),
            IsolationResistance=5200, OverVoltage=0, UnderVoltage=0, OverTemperature=0,
            OverCurrent=0, IsolationFault=0, FaultCode=0,
            BalancingActive=during(t, (full + 4, full + 19)),
            DischargePowerLimit=np.clip(charge * 6, 0, 150), ChargePowerLimit=accept,
            DischargeCurrentLimit=np.clip(charge * 15, 0, 420),
            ChargeCurrentLimit=accept * 1000 / voltage, ChargeVoltageLimit=CELLS * 4.2,
            PackCoolantInlet=pack - 1.5, PackCoolantOutlet=pack - 0.5,
            PumpDuty=np.where(closed, 40, 0), FanDuty=np.where(pack > 33, 60, 0),
            ThermalMode=np.where(closed, np.where(pack > 33, 2, 1), 0), CompressorPower=cooler,
            HeaterPower=heater,
        )  # fmt: skip

    def cells(self, steps: Int64, cells: Int64) -> Float64:
        """Voltages in mV, float64[len(cells), len(steps)]."""
        own = np.multiply.outer(self.car.cell_resistance[cells], self._current[steps])
        spread: Float64 = self.cell_mean[steps] + self.car.cell_offset[cells, np.newaxis] - own
        return spread

    def modules(self, steps: Int64, modules: Int64) -> Float64:
        """Temperatures in degC, float64[len(modules), len(steps)]."""
        own = np.multiply.outer(self.car.module_warmth[modules], self._module_warm[steps])
        spread: Float64 = self._module_mean[steps] + self.car.module_offset[modules, None] + own
        return spread

    def _charging(self) -> None:
        t, when = self.t, self._schedule
        plug, full = when.plugged, when.full
        stages = (
            (plug, 1), (plug + 2, 2), (plug + 6, 3), (plug + 9, 4), (plug + 12, 5), (full, 6),
            (full + 3, 7), (full + 8, 0),
        )  # fmt: skip
        state = np.zeros(STEPS)
        for begin, stage in stages:
            state[t >= begin] = stage
        plugged, talking = during(t, (plug, full + 8)), during(t, (plug + 2, full + 4))
        current = np.maximum(-self._current * during(t, (plug + 10, full + 4)), 0)
        output = np.where(during(t, (plug + 9.5, full + 4)), self._voltage, 0)
        # The station tests the insulation.
        output = np.where(during(t, (plug + 6, plug + 8)), 480, output)
        power = current * output / 1000
        self._follow(
            "InletTemperature", self.car.ambient + (current / 18) ** 2, 60, self.car.ambient
        )
        self._set(
            ChargingState=state, PlugState=np.where(talking, 2, np.where(plugged, 1, 0)),
            ChargeMode=np.where(talking, 2, 0), ChargeLidOpen=during(t, (plug - 2, full + 10)),
            ChargeTimeLeft=np.where(talking, np.ceil(np.maximum(full - t, 0) / 60), 0),
            TargetCharge=self.car.charge if when.target is None else when.target,
            SessionEnergy=np.cumsum(power) * STEP_S / 3600,
            ChargeAcVoltage=0, ChargeAcCurrent=0, ChargeAcPower=0, ChargeDcVoltage=output,
            ChargeDcCurrent=current, ChargeDcPower=power, StationVoltageLimit=500 * talking,
            StationCurrentLimit=200 * talking, StationPowerLimit=60 * talking,
        )  # fmt: skip

    def _inputs(self) -> None:
        t, ready, off = self.t, self._schedule.ready, self._schedule.off
        drive = during(t, (ready + 2, off - 2))
        hold = self._still & drive
        brake = np.where(hold, 18, np.clip(self._friction / 18 + 9 * (self._a < -0.6), 0, 100))
        brake = _lag(
            np.where(during(t, (ready - 1, ready + 3)), 25, np.where(drive, brake, 0)), 0.12, 0
        )
        torque = np.maximum(self.columns["MotorTorque"], 0) * (brake < 1)
        pressed = brake > 1.5
        self._set(
            AcceleratorPedal=100 * (torque / _MAX_TORQUE) ** 0.8, BrakePedal=brake,
            BrakePressure=0.9 * brake, BrakeSwitch=pressed, GearSelector=3 * drive,
            DriveReady=self._ready, DriverSeatOccupied=during(t, (ready - 3, off + 2)),
            DriverBelt=during(t, (ready - 1.5, off + 0.5)), AntiLockActive=0,
            TractionControlActive=0,
            HoldActive=hold, ParkingBrake=~drive, BrakeLight=pressed | (self._a < -1.2),
        )  # fmt: skip

    def _body(self) -> None:
        t, ambient, when = self.t, self.car.ambient, self._schedule
        supplied = self._ready | during(t, (when.plugged + 9.5, when.full + 4))
        tunnel = during(t, self._schedule.tunnel)
        turn = np.zeros(STEPS)
        for begin, end, side in when.turns:
            turn += side * during(t, (begin, end))
        load = 18 + 9 * tunnel + 12 * self._ready
        lean = _lag(self._v / 30 * 14, 150, 0)
        for wheel in ("FrontLeft", "FrontRight", "RearLeft", "RearRight"):
            name = f"TyreTemperature{wheel}"
            self._follow(name, ambient + 4 + lean, 200, ambient + 4)
            own = 0.06 * (float(uniform(self.car.seed, wheel, np.arange(1))[0]) - 0.5)
            self.columns[f"TyrePressure{wheel}"] = (3.5 + own) * (
                273 + self.columns[name]
            ) / 293 - 1
        self._follow("DcDcTemperature", ambient + np.where(supplied, 0.5 * load, 0), 120, ambient)
        self._follow("AuxiliaryCharge", np.where(supplied, 97, 84), 400, 90)
        self._set(
            LowVoltage=_lag(np.where(supplied, 14.1, 12.6), 0.6, 12.6) - load / 400,
            LowVoltageCurrent=np.where(supplied, load, 0), DcDcState=np.where(supplied, 2, 1),
            DoorFrontLeft=during(
                t, (when.ready - 5, when.ready - 2), (when.off + 1, when.off + 5),
                (when.full + 10, when.full + 13),
            ),
            DoorFrontRight=0,
            DoorRearLeft=0, DoorRearRight=0, Bonnet=0,
            Tailgate=during(t, (when.plugged - 5, when.plugged - 2)),
            LockState=during(t, (when.ready + 6, when.off - 1)), WindowFrontRight=0, WiperMode=0,
            WindowFrontLeft=30 * (smooth((t - 20) / 3) - smooth((t - 80) / 3)),
            LowBeam=tunnel, HighBeam=0, FogLight=0, DaytimeLight=self._ready, ReverseLight=0,
            TurnSignal=turn, OutsideTemperature=ambient, SetTemperature=21,
            BlowerLevel=np.where(self._ready, 1 + np.round(self._cooler / 700), 0),
            ClimateMode=self._ready, SolarLoad=np.where(tunnel, 0, 420),
        )  # fmt: skip
