{{/*
The services that are on, as YAML: key -> its values over `defaults`, and what the chart knows of it:
command (the image's argument, the group's and the Kubernetes objects' name), job (Prometheus' label, the tutorial's
for ring-metrics), topic (whose lag scales it; of event-index, that of all it reads), serves (it has /v1).
*/}}
{{- define "telemetry.services" -}}
{{- $known := fromYaml (include "telemetry.known" .) -}}
{{- $on := dict -}}
{{- range $key, $facts := $known -}}
{{- $service := mergeOverwrite (deepCopy $.Values.defaults) (deepCopy (index $.Values.services $key)) $facts -}}
{{- if $service.enabled -}}
{{- $_ := set $on $key $service -}}
{{- end -}}
{{- end -}}
{{ toYaml $on }}
{{- end -}}

{{- define "telemetry.known" -}}
ringMetrics: {command: ring-metrics, job: agent-hypervisor, topic: events.ring, serves: false}
sagaSpans: {command: saga-spans, job: saga-spans, topic: events.saga, serves: true}
eventIndex: {command: event-index, job: event-index, topic: "", serves: true}
governanceMetrics: {command: governance-metrics, job: governance-metrics, topic: events.governance, serves: false}
{{- end -}}

{{/* Whether the index is in SQLite: one writer, on one volume. Takes the service's values. */}}
{{- define "telemetry.isSqlite" -}}
{{- if and (eq .command "event-index") (eq .database.type "sqlite") }}true{{ end -}}
{{- end -}}
