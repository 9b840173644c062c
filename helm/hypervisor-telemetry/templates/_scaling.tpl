{{/* The rate at which copies are added and removed, as each change moves partitions. Takes a service's `autoscaling`. */}}
{{- define "telemetry.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: 30
  policies:
    - type: Percent
      value: 100
      periodSeconds: 60
scaleDown:
  stabilizationWindowSeconds: {{ int64 .scaleDownAfter }}
  policies:
    - type: Pods
      value: 1
      periodSeconds: {{ int64 (min 1800 (max 1 (int64 .scaleDownAfter))) }}
{{- end -}}

{{/* KEDA's parameters for TLS and SASL: the name of each, and the Secret and key that hold it. */}}
{{- define "telemetry.kedaSecrets" -}}
{{- $secret := include "telemetry.fullname" . -}}
{{- if include "telemetry.usesSasl" . }}
{{- with .Values.kafka.sasl.existingSecret }}
{{- if and .name .usernameKey }}
{{ include "telemetry.kedaSecret" (list "username" .name .usernameKey) }}
{{- else }}
{{ include "telemetry.kedaSecret" (list "username" $secret "kafka-username") }}
{{- end }}
{{ include "telemetry.kedaSecret" (list "password" (.name | default $secret) (.name | empty | not | ternary .passwordKey "kafka-password")) }}
{{- end }}
{{- end }}
{{- if include "telemetry.hasCa" . }}
{{- with .Values.kafka.tls.existingCa }}
{{ include "telemetry.kedaSecret" (list "ca" (.name | default $secret) (.name | empty | not | ternary .key "ca.crt")) }}
{{- end }}
{{- end }}
{{- if include "telemetry.hasCertificate" . }}
{{- with .Values.kafka.tls.existingCertificate }}
{{ include "telemetry.kedaSecret" (list "cert" (.name | default $secret) (.name | empty | not | ternary .certificateKey "tls.crt")) }}
{{ include "telemetry.kedaSecret" (list "key" (.name | default $secret) (.name | empty | not | ternary .keyKey "tls.key")) }}
{{- if and .name .passwordKey }}
{{ include "telemetry.kedaSecret" (list "keyPassword" .name .passwordKey) }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "telemetry.kedaSecret" -}}
- parameter: {{ index . 0 }}
  name: {{ index . 1 }}
  key: {{ index . 2 }}
{{- end -}}

{{/* KEDA's name of the SASL mechanism. */}}
{{- define "telemetry.kedaSasl" -}}
{{- $words := dict "PLAIN" "plaintext" "SCRAM-SHA-256" "scram_sha256" "SCRAM-SHA-512" "scram_sha512" "OAUTHBEARER" "oauthbearer" -}}
{{- include "telemetry.usesSasl" . | empty | not | ternary (index $words .Values.kafka.sasl.mechanism) "none" -}}
{{- end -}}
