//! Spans as OTLP has them: an `ExportTraceServiceRequest` in JSON (OTLP 1.0, "JSON Protobuf Encoding").

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{Attribute, Span};

/// `SPAN_KIND_INTERNAL` and `SPAN_KIND_SERVER`.
const KIND_INTERNAL: u8 = 1;
const KIND_SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`. A span that did not fail has none.
const STATUS_ERROR: u8 = 2;

/// The body of a request to a collector. `instance` names the server that the spans are of.
pub(super) fn request(instance: &str, spans: &[Span]) -> Vec<u8> {
    let resource = [
        ("service.name", Attribute::Text("raftmap".to_owned())),
        ("service.instance.id", Attribute::Text(instance.to_owned())),
        ("service.version", Attribute::Text(env!("CARGO_PKG_VERSION").to_owned())),
    ];
    let request = json!({
        "resourceSpans": [{
            "resource": { "attributes": attributes(&resource) },
            "scopeSpans": [{
                "scope": { "name": "raftmap" },
                "spans": spans.iter().map(span).collect::<Vec<_>>(),
            }],
        }],
    });
    request.to_string().into_bytes()
}

fn span(span: &Span) -> Value {
    let mut value = json!({
        "traceId": format!("{:032x}", span.context.trace_id()),
        "spanId": format!("{:016x}", span.context.span_id()),
        "name": span.name,
        "kind": if span.of_a_server { KIND_SERVER } else { KIND_INTERNAL },
        "startTimeUnixNano": nanoseconds(span.began),
        // A clock that went back meanwhile makes no span that ends before it began.
        "endTimeUnixNano": nanoseconds(span.ended.max(span.began)),
        "attributes": attributes(&span.attributes),
    });
    if let Some(parent) = span.parent {
        value["parentSpanId"] = format!("{parent:016x}").into();
    }
    if let Some(failure) = &span.failure {
        value["status"] = json!({ "code": STATUS_ERROR, "message": failure });
    }
    value
}

fn attributes(attributes: &[(&'static str, Attribute)]) -> Vec<Value> {
    let value = |value: &Attribute| match value {
        Attribute::Text(text) => json!({ "stringValue": text }),
        // 64-bit numbers are strings in JSON of protobuf.
        Attribute::Number(number) => json!({ "intValue": number.to_string() }),
    };
    attributes.iter().map(|(name, of)| json!({ "key": name, "value": value(of) })).collect()
}

fn nanoseconds(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU64, NonZeroU128};
    use std::time::Duration;

    use raftmap_state::TraceContext;

    use super::*;

    #[test]
    fn spans_are_written_as_the_standard_has_them() {
        let context = TraceContext::new(NonZeroU128::MIN, NonZeroU64::MAX);
        let began = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001);
        let root = Span {
            context: context.clone(),
            parent: None,
            ended: UNIX_EPOCH,
            failure: Some("no leader".to_owned()),
            of_a_server: true,
            ..Span::within(&context, "Put", began)
        };
        let part = Span { ended: began + Duration::from_nanos(9), ..Span::within(&context, "apply", began) }
            .with("raftmap.index", Attribute::Number(u64::MAX));
        let written: Value = serde_json::from_slice(&request("shop/1", &[root, part.clone()])).unwrap();
        let resource = &written["resourceSpans"][0];
        let instance = json!({ "key": "service.instance.id", "value": { "stringValue": "shop/1" } });
        assert_eq!(resource["resource"]["attributes"][1], instance);
        let spans = &resource["scopeSpans"][0]["spans"];
        let of_root = json!({
            "traceId": "00000000000000000000000000000001",
            "spanId": "ffffffffffffffff",
            "name": "Put",
            "kind": 2,
            "startTimeUnixNano": "1700000000000000001",
            "endTimeUnixNano": "1700000000000000001",
            "attributes": [],
            "status": { "code": 2, "message": "no leader" },
        });
        let of_part = json!({
            "traceId": "00000000000000000000000000000001",
            "spanId": format!("{:016x}", part.context.span_id()),
            "parentSpanId": "ffffffffffffffff",
            "name": "apply",
            "kind": 1,
            "startTimeUnixNano": "1700000000000000001",
            "endTimeUnixNano": "1700000000000000010",
            "attributes": [{ "key": "raftmap.index", "value": { "intValue": "18446744073709551615" } }],
        });
        assert_eq!((&spans[0], &spans[1]), (&of_root, &of_part));
    }
}
