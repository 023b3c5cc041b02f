"""What makes one toy city look unlike another: every appearance parameter, in one frozen dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from dabnn.data.base import Color

Range = tuple[float, float]


class Category(IntEnum):
    """What a pixel really shows; each dataset maps these onto a label space of its own."""

    ROAD = 0
    MARKING = 1
    SIDEWALK = 2
    TERRAIN = 3
    BUILDING = 4
    FENCE = 5
    POLE = 6
    SIGN = 7
    VEGETATION = 8
    SKY = 9
    PERSON = 10
    RIDER = 11
    BICYCLE = 12
    VEHICLE = 13
    EGO = 14


@dataclass(frozen=True)
class LabelSpace:
    """The classes of one dataset.

    Attributes:
        classes: Class name to its colour in label pictures; the order gives the class ids.
        labels: Class name of every labelled category; the categories left out are unlabelled.
    """

    classes: Mapping[str, Color]
    labels: Mapping[Category, str]


@dataclass(frozen=True)
class Style:
    """One city, its traffic, its weather and the camera that films it.

    A `Range` is drawn uniformly for each scene. Lengths are in metres, colours are RGB in [0, 255],
    shares and probabilities are in [0, 1].

    Attributes:
        camera_height: Height of the camera above the road.
        half_view: Tangent of half the horizontal field of view.
        horizon: Row of the horizon as a share of the image height, from the top.
        roll: Largest tilt of the camera, as a slope.
        hood: Height of the ego car's hood as a share of the image height; 0 for none.
        drive_side: 1 where traffic keeps to the right, -1 where it keeps to the left.
        lanes: Smallest and largest number of lanes for each direction.
        lane_width: Width of a lane.
        verge: Width of the strip of grass or dirt along the road.
        sidewalk: Width of the sidewalk.
        yaw: Largest angle between the camera and the road, as a slope.
        curvature: Largest curvature of the road, in 1 / m.
        crossing: Probability of an intersection.
        marking: Probability that a road has lane markings.
        marking_wear: How much of the paint is gone.
        lots: Relative frequency of what stands along the street: building, greenery, fence, open ground.
        lot_length: Length of one lot along the street.
        storeys: Fewest and most storeys of a building.
        pitched_roof: Probability of a pitched roof.
        skyline_green: Share of trees in the skyline.
        tree_gap: Distance between trees along the kerb.
        tree_height: Height of a tree.
        tree_shapes: Relative frequency of round, conical and palm trees.
        pole_gap: Distance between poles.
        signs: Mean number of traffic signs.
        boards: Mean number of advertising boards.
        traffic_gap: Distance between moving vehicles of one lane.
        parked_gap: Distance between parked vehicles of one kerb.
        vehicles: Relative frequency of car, van, truck and rickshaw.
        pedestrians: Mean number of persons on the sidewalks.
        jaywalkers: Mean number of persons on the road.
        cyclists: Mean number of cyclists.
        parked_bicycles: Mean number of bicycles without a rider.
        asphalt: Colour of the road.
        paint: Colour of lane markings.
        paving: Colour of the sidewalk.
        ground: Colours of the terrain, mixed.
        facades: Colours of the walls.
        roofs: Colours of the roofs.
        foliage: Colours of the leaves.
        barriers: Colours of fences and walls.
        metal: Colours of poles.
        bodywork: Colours of vehicles.
        clothes: Colours of clothes.
        sky_top: Colour of the sky overhead.
        sky_low: Colour of the sky and of the haze at the horizon.
        clouds: Strength of the clouds.
        ambient: Colour of the light from the sky; 255 leaves colours as they are.
        sun: Colour of the direct light.
        sun_strength: Strength of the direct light.
        sun_height: Height of the sun, as a slope.
        daylight: Brightness of the scene; 1 is day, 0 is night. The sky darkens with its square root.
        lit_windows: Share of lit windows at night; none by day.
        haze: Extinction by fog or dust, in 1 / m.
        rain: Probability of rain on a wet road.
        tint: Largest deviation of the white balance of each channel.
        saturation: Saturation of the film; 1 leaves colours as they are.
        blur: Radius of the blur, in thousandths of the image height.
        vignette: How much darker the corners are.
        noise: Standard deviation of the sensor noise, in grey levels.
    """

    camera_height: Range
    half_view: Range
    horizon: Range
    roll: float
    hood: float

    drive_side: int
    lanes: tuple[int, int]
    lane_width: Range
    verge: Range
    sidewalk: Range
    yaw: float
    curvature: float
    crossing: float
    marking: float
    marking_wear: Range

    lots: tuple[float, float, float, float]
    lot_length: Range
    storeys: tuple[int, int]
    pitched_roof: float
    skyline_green: float
    tree_gap: Range
    tree_height: Range
    tree_shapes: tuple[float, float, float]
    pole_gap: Range
    signs: float
    boards: float

    traffic_gap: Range
    parked_gap: Range
    vehicles: tuple[float, float, float, float]
    pedestrians: float
    jaywalkers: float
    cyclists: float
    parked_bicycles: float

    asphalt: Color
    paint: Color
    paving: Color
    ground: tuple[Color, Color]
    facades: tuple[Color, ...]
    roofs: tuple[Color, ...]
    foliage: tuple[Color, ...]
    barriers: tuple[Color, ...]
    metal: tuple[Color, ...]
    bodywork: tuple[Color, ...]
    clothes: tuple[Color, ...]

    sky_top: Color
    sky_low: Color
    clouds: float
    ambient: Color
    sun: Color
    sun_strength: Range
    sun_height: Range
    daylight: Range
    lit_windows: float
    haze: Range
    rain: float

    tint: float
    saturation: float
    blur: Range
    vignette: Range
    noise: Range
