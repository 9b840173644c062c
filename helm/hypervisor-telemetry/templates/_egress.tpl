{{/* The destinations that pods may connect to: everything; or DNS, Kafka's ports and those in the values. */}}
{{- define "telemetry.egress" -}}
{{- with .Values.networkPolicy.egress }}
{{- if not .enabled }}
- {}
{{- else }}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
- ports:
    {{- range include "telemetry.kafkaPorts" $ | splitList "," }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- with .rules }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* As text with commas; an address without a port has Kafka's own, 9092. */}}
{{- define "telemetry.kafkaPorts" -}}
{{- $ports := list -}}
{{- range .Values.networkPolicy.egress.kafkaPorts -}}
{{- $ports = append $ports (toString (int64 .)) -}}
{{- end -}}
{{- if not $ports -}}
{{- range splitList "," .Values.kafka.bootstrapServers -}}
{{- $ports = append $ports (regexFind ":[0-9]+$" (trim .) | trimPrefix ":" | default "9092") -}}
{{- end -}}
{{- end -}}
{{- $ports | uniq | join "," -}}
{{- end -}}
