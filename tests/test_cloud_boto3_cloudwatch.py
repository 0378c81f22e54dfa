"""The embedded cloud's CloudWatch by boto3: what is counted about invocations, and everything else refused by name."""

import time
from datetime import datetime, timedelta, timezone

import botocore.model
import pytest
from botocore.exceptions import ClientError
from test_cloud_boto3 import function, invoke

from cloud_support import Cloud, code


@pytest.fixture
def speaking(monkeypatch):
    """Lets clients prefer this protocol, where a service knows several."""
    usual = botocore.model.PRIORITY_ORDERED_SUPPORTED_PROTOCOLS

    def speak(protocol: str) -> None:
        monkeypatch.setattr(botocore.model, "PRIORITY_ORDERED_SUPPORTED_PROTOCOLS", (protocol, *usual))

    return speak


@pytest.fixture
def metrics(speaking):
    """Makes clients that speak the Query protocol, the one that is served."""
    speaking("query")
    return lambda cloud, **options: cloud.client("cloudwatch", **options)


def asked(metric="Invocations", statistics=("Sum",), period=300, **dimensions) -> dict:
    now = datetime.now(timezone.utc)
    return {
        "Namespace": "AWS/Lambda",
        "MetricName": metric,
        "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
        "StartTime": now - timedelta(minutes=4),
        "EndTime": now + timedelta(minutes=1),
        "Period": period,
        "Statistics": list(statistics),
    }


def total(client, metric="Invocations", **dimensions) -> float:
    points = client.get_metric_statistics(**asked(metric, **dimensions))["Datapoints"]
    return sum(point["Sum"] for point in points)


def test_invocations_are_counted_by_alias_and_executed_version(cloud, functions, echo_image, metrics):
    function(cloud, echo_image())
    functions.publish_version(FunctionName="echo")
    functions.create_alias(FunctionName="echo", Name="live", FunctionVersion="1")
    for _ in range(3):
        invoke(functions, Qualifier="live")
    invoke(functions, Qualifier="1")
    invoke(functions)
    broken = functions.invoke(FunctionName="echo", Qualifier="live", Payload=b'{"fail": "on purpose"}')
    assert broken["FunctionError"] == "Unhandled"

    client = metrics(cloud)
    assert total(client, FunctionName="echo") == 6
    assert total(client) == 6
    assert total(client, FunctionName="echo", Resource="echo:live") == 4
    weighed = {"FunctionName": "echo", "Resource": "echo:live", "ExecutedVersion": "1"}
    assert total(client, **weighed) == 4
    assert total(client, "Errors", **weighed) == 1
    assert total(client, "Throttles", **weighed) == 0
    assert total(client, FunctionName="echo", Resource="echo:1") == 1
    assert total(client, FunctionName="echo", Resource="echo") == 1
    assert total(client, FunctionName="other") == 0
    assert total(client, FunctionName="echo", ExecutedVersion="1") == 0, "no metric has these two alone"

    names = ["SampleCount", "Average", "Sum", "Minimum", "Maximum"]
    (point,) = client.get_metric_statistics(**asked("Duration", names, period=600, **weighed))["Datapoints"]
    assert point["Unit"] == "Milliseconds" and point["SampleCount"] == 4
    assert 0 < point["Minimum"] <= point["Average"] <= point["Maximum"] < 5000
    assert point["Sum"] == pytest.approx(point["Average"] * 4)
    assert client.get_metric_statistics(**asked(**weighed), Unit="Seconds")["Datapoints"] == []


def test_counts_outlive_a_restart(cloud, functions, echo_image, metrics, programs):
    function(cloud, echo_image())
    invoke(functions)
    cloud.stop()
    again = Cloud.start(programs["serve"], cloud.root)
    try:
        assert total(metrics(again), FunctionName="echo") == 1
    finally:
        again.stop()


def test_counts_by_the_minute(cloud, functions, echo_image, metrics):
    function(cloud, echo_image())
    invoke(functions)
    client = metrics(cloud)
    points = client.get_metric_statistics(**asked(period=60, FunctionName="echo"))["Datapoints"]
    assert len(points) == 1 and points[0]["Timestamp"].second == 0
    assert abs(points[0]["Timestamp"].timestamp() - time.time()) < 120


def test_what_is_refused(cloud, metrics):
    client = metrics(cloud)
    for change, expected in [
        ({"Period": 59}, "InvalidParameterValue"),
        ({"Statistics": ["Median"]}, "InvalidParameterValue"),
        ({"Statistics": []}, "InvalidParameterCombination"),
        ({"StartTime": datetime.now(timezone.utc) + timedelta(hours=1)}, "InvalidParameterValue"),
        ({"StartTime": datetime.now(timezone.utc) - timedelta(days=3), "Period": 60}, "InvalidParameterCombination"),
        ({"MetricName": ""}, "MissingParameter"),
    ]:
        assert code(client.get_metric_statistics, **(asked() | change)) == (expected, 400), change
    for change, name in [
        ({"MetricName": "ConcurrentExecutions"}, "ConcurrentExecutions"),
        ({"Namespace": "AWS/S3"}, "AWS/S3"),
        ({"ExtendedStatistics": ["p99"]}, "percentiles"),
        ({"Dimensions": [{"Name": "Colour", "Value": "blue"}]}, "Colour"),
    ]:
        with pytest.raises(ClientError) as caught:
            client.get_metric_statistics(**(asked() | change))
        response = caught.value.response
        assert response["ResponseMetadata"]["HTTPStatusCode"] == 501 and name in response["Error"]["Message"], response
    assert code(client.list_metrics) == ("NotImplemented", 501)
    assert code(client.put_metric_data, Namespace="X", MetricData=[])[1] == 501


def test_wrong_signature_is_refused(cloud, metrics):
    stranger = metrics(cloud, secret_key="wrong")
    assert code(stranger.get_metric_statistics, **asked())[1] == 403


def test_other_protocols_are_refused_by_name(cloud, speaking):
    speaking("json")
    with pytest.raises(ClientError) as caught:
        cloud.client("cloudwatch").get_metric_statistics(**asked())
    assert "GetMetricStatistics in another protocol than Query" in caught.value.response["Error"]["Message"]
