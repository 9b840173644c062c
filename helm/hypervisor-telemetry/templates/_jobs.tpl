{{/*
A pod that runs commands of the image once. Of (dict "root" $ "component" NAME "secret" NAME "account" NAME
"containers" (dict NAME (dict "args" LIST "env" TEXT))).
*/}}
{{- define "telemetry.jobPod" -}}
metadata:
  labels:
    {{- include "telemetry.labels" . | nindent 4 }}
spec:
  serviceAccountName: {{ .account }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  restartPolicy: Never
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  securityContext:
    {{- toYaml .root.Values.podSecurityContext | nindent 4 }}
  {{- with .root.Values.defaults.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .root.Values.defaults.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    {{- range $name, $container := .containers }}
    - name: {{ $name }}
      image: {{ include "telemetry.image" $.root }}
      imagePullPolicy: {{ $.root.Values.image.pullPolicy }}
      args: {{ toJson $container.args }}
      env:
        {{- range $variable, $value := fromYaml (include "telemetry.settings" $.root) }}
        - name: {{ $variable }}
          value: {{ $value | quote }}
        {{- end }}
        {{- with $container.env }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with include "telemetry.connectionEnv" $ | trim }}
        {{- . | nindent 8 }}
        {{- end }}
      resources:
        {{- toYaml $.root.Values.topics.resources | nindent 8 }}
      securityContext:
        {{- toYaml $.root.Values.securityContext | nindent 8 }}
      volumeMounts:
        {{- include "telemetry.volumeMounts" $.root | nindent 8 }}
    {{- end }}
  volumes:
    {{- include "telemetry.volumes" . | nindent 4 }}
{{- end -}}
