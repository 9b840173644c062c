{{/* Names and labels. */}}

{{- define "telemetry.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 44 | trimSuffix "-" -}}
{{- end -}}

{{/* 44 characters at most: "-governance-metrics" is appended, and a name has at most 63. */}}
{{- define "telemetry.fullname" -}}
{{- $name := include "telemetry.name" . -}}
{{- $whole := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $whole | trunc 44 | trimSuffix "-" -}}
{{- end -}}

{{/* The selector of one component's pods. Takes (dict "root" $ "component" "ring-metrics"). */}}
{{- define "telemetry.selector" -}}
app.kubernetes.io/name: {{ include "telemetry.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of everything that belongs to a component. */}}
{{- define "telemetry.labels" -}}
{{ include "telemetry.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: {{ .root.Chart.Name }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "telemetry.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "telemetry.fullname" .) "default") -}}
{{- end -}}

{{- define "telemetry.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The annotations of objects that exist before the topics job runs, and are removed after it. */}}
{{- define "telemetry.beforeHook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: "-10"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* A number in plain digits: YAML's numbers are floats here, and 1000000 would be 1e+06. */}}
{{- define "telemetry.text" -}}
{{- if and (kindIs "float64" .) (eq (float64 (int64 .)) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}
