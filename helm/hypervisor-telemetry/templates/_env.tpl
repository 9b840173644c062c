{{/* The environment of the processes: settings in a ConfigMap, secrets by reference, files in a volume. */}}

{{- define "telemetry.usesSasl" -}}
{{- if hasPrefix "SASL_" .Values.kafka.securityProtocol }}true{{ end -}}
{{- end -}}

{{- define "telemetry.usesTls" -}}
{{- if hasSuffix "SSL" .Values.kafka.securityProtocol }}true{{ end -}}
{{- end -}}

{{- define "telemetry.hasCa" -}}
{{- if and (include "telemetry.usesTls" .) (or .Values.kafka.tls.ca .Values.kafka.tls.existingCa.name) }}true{{ end -}}
{{- end -}}

{{- define "telemetry.hasCertificate" -}}
{{- if and (include "telemetry.usesTls" .) (or .Values.kafka.tls.certificate .Values.kafka.tls.existingCertificate.name) }}true{{ end -}}
{{- end -}}

{{- define "telemetry.hasRegistry" -}}
{{- if or .Values.schemaRegistry.url .Values.schemaRegistry.existingSecret.name }}true{{ end -}}
{{- end -}}

{{/* The settings of every process, for a ConfigMap or an environment; none is a secret. */}}
{{- define "telemetry.settings" -}}
KAFKA_BOOTSTRAP_SERVERS: {{ .Values.kafka.bootstrapServers | quote }}
KAFKA_SECURITY_PROTOCOL: {{ .Values.kafka.securityProtocol | quote }}
{{- if include "telemetry.usesSasl" . }}
KAFKA_SASL_MECHANISM: {{ .Values.kafka.sasl.mechanism | quote }}
{{- end }}
{{- if include "telemetry.hasCa" . }}
KAFKA_SSL_CA_LOCATION: /etc/hypervisor-telemetry/kafka/ca.crt
{{- end }}
{{- if include "telemetry.hasCertificate" . }}
KAFKA_SSL_CERTIFICATE_LOCATION: /etc/hypervisor-telemetry/kafka/tls.crt
KAFKA_SSL_KEY_LOCATION: /etc/hypervisor-telemetry/kafka/tls.key
{{- end }}
{{- range $property, $value := .Values.kafka.settings }}
KAFKA_{{ $property | replace "." "_" | upper }}: {{ include "telemetry.text" $value | quote }}
{{- end }}
TELEMETRY_TOPIC_PREFIX: {{ .Values.kafka.topicPrefix | quote }}
{{- end -}}

{{/* The part of `telemetry.secrets` that the topics job needs, too: the connection to Kafka and the registry. */}}
{{- define "telemetry.connectionSecrets" -}}
{{- $kafka := .Values.kafka -}}
{{- if include "telemetry.usesSasl" . }}
{{- if and $kafka.sasl.username (not (and $kafka.sasl.existingSecret.name $kafka.sasl.existingSecret.usernameKey)) }}
kafka-username: {{ $kafka.sasl.username | quote }}
{{- end }}
{{- if and $kafka.sasl.password (not $kafka.sasl.existingSecret.name) }}
kafka-password: {{ $kafka.sasl.password | quote }}
{{- end }}
{{- end }}
{{- if include "telemetry.usesTls" . }}
{{- if and $kafka.tls.ca (not $kafka.tls.existingCa.name) }}
ca.crt: {{ $kafka.tls.ca | quote }}
{{- end }}
{{- if and $kafka.tls.certificate (not $kafka.tls.existingCertificate.name) }}
tls.crt: {{ $kafka.tls.certificate | quote }}
tls.key: {{ $kafka.tls.key | quote }}
{{- end }}
{{- end }}
{{- if and .Values.schemaRegistry.url (not .Values.schemaRegistry.existingSecret.name) }}
schema-registry-url: {{ .Values.schemaRegistry.url | quote }}
{{- end }}
{{- end -}}

{{/* The release's own Secret: every secret in the values. */}}
{{- define "telemetry.secrets" -}}
{{- include "telemetry.connectionSecrets" . }}
{{- $services := fromYaml (include "telemetry.services" .) }}
{{- if and .Values.api.token (not .Values.api.existingSecret.name) }}
api-token: {{ .Values.api.token | quote }}
{{- end }}
{{- with $services.eventIndex }}
{{- if and (eq .database.type "postgresql") .database.url (not .database.existingSecret.name) }}
database-url: {{ .database.url | quote }}
{{- end }}
{{- end }}
{{- with $services.sagaSpans }}
{{- if not .existingSinks.name }}
span-sinks: {{ join "," .sinks | quote }}
{{- end }}
{{- if and .otlpHeaders (not .existingOtlpHeaders.name) }}
otlp-headers: {{ .otlpHeaders | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* An environment variable from a Secret. Takes (list NAME SECRET KEY). */}}
{{- define "telemetry.fromSecret" -}}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef:
      name: {{ index . 1 }}
      key: {{ index . 2 }}
{{- end -}}

{{/* The connection to Kafka and the registry. Takes (dict "root" $ "secret" NAME): the Secret with the values' secrets. */}}
{{- define "telemetry.connectionEnv" -}}
{{- $sasl := .root.Values.kafka.sasl -}}
{{- if include "telemetry.usesSasl" .root }}
{{- with $sasl.existingSecret }}
{{- if and .name .usernameKey }}
{{ include "telemetry.fromSecret" (list "KAFKA_SASL_USERNAME" .name .usernameKey) }}
{{- else if $sasl.username }}
{{ include "telemetry.fromSecret" (list "KAFKA_SASL_USERNAME" $.secret "kafka-username") }}
{{- end }}
{{- if .name }}
{{ include "telemetry.fromSecret" (list "KAFKA_SASL_PASSWORD" .name .passwordKey) }}
{{- else if $sasl.password }}
{{ include "telemetry.fromSecret" (list "KAFKA_SASL_PASSWORD" $.secret "kafka-password") }}
{{- end }}
{{- end }}
{{- end }}
{{- with .root.Values.kafka.tls.existingCertificate }}
{{- if and .name .passwordKey (include "telemetry.usesTls" $.root) }}
{{ include "telemetry.fromSecret" (list "KAFKA_SSL_KEY_PASSWORD" .name .passwordKey) }}
{{- end }}
{{- end }}
{{- if include "telemetry.hasRegistry" .root }}
{{- with .root.Values.schemaRegistry.existingSecret }}
{{ include "telemetry.fromSecret" (list "SCHEMA_REGISTRY_URL" (.name | default $.secret) (.name | empty | not | ternary .key "schema-registry-url")) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Kafka's certificates in one folder, from one or more Secrets. Takes (dict "root" $ "secret" NAME). */}}
{{- define "telemetry.tlsVolume" -}}
{{- $tls := .root.Values.kafka.tls -}}
- name: kafka-tls
  projected:
    defaultMode: 0440
    sources:
      {{- if include "telemetry.hasCa" .root }}
      - secret:
          name: {{ $tls.existingCa.name | default .secret }}
          items:
            - key: {{ $tls.existingCa.name | empty | not | ternary $tls.existingCa.key "ca.crt" }}
              path: ca.crt
      {{- end }}
      {{- if include "telemetry.hasCertificate" .root }}
      - secret:
          name: {{ $tls.existingCertificate.name | default .secret }}
          items:
            - key: {{ $tls.existingCertificate.name | empty | not | ternary $tls.existingCertificate.certificateKey "tls.crt" }}
              path: tls.crt
            - key: {{ $tls.existingCertificate.name | empty | not | ternary $tls.existingCertificate.keyKey "tls.key" }}
              path: tls.key
      {{- end }}
{{- end -}}

{{/* The disk of every pod: only /tmp can be written. Takes (dict "root" $ "secret" NAME). */}}
{{- define "telemetry.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- if or (include "telemetry.hasCa" .root) (include "telemetry.hasCertificate" .root) }}
{{ include "telemetry.tlsVolume" . }}
{{- end }}
{{- end -}}

{{- define "telemetry.volumeMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if or (include "telemetry.hasCa" .) (include "telemetry.hasCertificate" .) }}
- name: kafka-tls
  mountPath: /etc/hypervisor-telemetry/kafka
  readOnly: true
{{- end }}
{{- end -}}

{{/* The additional environment of one service. Takes (dict "root" $ "service" VALUES). */}}
{{- define "telemetry.serviceEnv" -}}
{{- $secret := include "telemetry.fullname" .root -}}
{{- if .service.serves }}
{{- with .root.Values.api.existingSecret }}
{{- if or .name $.root.Values.api.token }}
{{ include "telemetry.fromSecret" (list "TELEMETRY_API_TOKEN" (.name | default $secret) (.name | empty | not | ternary .key "api-token")) }}
{{- end }}
{{- end }}
{{- end }}
{{- if eq .service.command "event-index" }}
{{- if include "telemetry.isSqlite" .service }}
- name: TELEMETRY_DATABASE_URL
  value: sqlite:////var/lib/hypervisor-telemetry/events.db
{{- else }}
{{- with .service.database.existingSecret }}
{{ include "telemetry.fromSecret" (list "TELEMETRY_DATABASE_URL" (.name | default $secret) (.name | empty | not | ternary .key "database-url")) }}
{{- end }}
{{- end }}
{{- end }}
{{- if eq .service.command "saga-spans" }}
{{- with .service.existingSinks }}
{{ include "telemetry.fromSecret" (list "TELEMETRY_SPAN_SINKS" (.name | default $secret) (.name | empty | not | ternary .key "span-sinks")) }}
{{- end }}
{{- with .service.existingOtlpHeaders }}
{{- if or .name $.service.otlpHeaders }}
{{ include "telemetry.fromSecret" (list "OTEL_EXPORTER_OTLP_HEADERS" (.name | default $secret) (.name | empty | not | ternary .key "otlp-headers")) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $value := .service.settings }}
- name: {{ $name }}
  value: {{ include "telemetry.text" $value | quote }}
{{- end }}
{{- with .service.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}
