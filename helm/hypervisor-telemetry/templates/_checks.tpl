{{/* Combinations of values that can't work, a sentence each; all that are found are reported at once. */}}

{{- define "telemetry.checks" -}}
{{- $wrong := list -}}
{{- $services := fromYaml (include "telemetry.services" .) -}}
{{- $kafka := .Values.kafka -}}
{{- $partitions := int64 $kafka.partitions -}}
{{- if not $services -}}
{{- $wrong = append $wrong "Every service is off; turn one on with services.<service>.enabled." -}}
{{- end -}}
{{- if not $kafka.bootstrapServers -}}
{{- $wrong = append $wrong "kafka.bootstrapServers is not set; give the addresses of your Kafka as host:port[,host:port]." -}}
{{- end -}}
{{- if not .Values.image.repository -}}
{{- $wrong = append $wrong "image.repository is empty; name the registry and path of your image." -}}
{{- end -}}
{{- if include "telemetry.usesSasl" . -}}
{{- if ne $kafka.sasl.mechanism "OAUTHBEARER" -}}
{{- if not (or $kafka.sasl.password $kafka.sasl.existingSecret.name) -}}
{{- $wrong = append $wrong (printf "kafka.securityProtocol is %s without a password; set kafka.sasl.existingSecret.name or kafka.sasl.password." $kafka.securityProtocol) -}}
{{- end -}}
{{- if not (or $kafka.sasl.username (and $kafka.sasl.existingSecret.name $kafka.sasl.existingSecret.usernameKey)) -}}
{{- $wrong = append $wrong (printf "kafka.securityProtocol is %s without a user; set kafka.sasl.username, or kafka.sasl.existingSecret.usernameKey." $kafka.securityProtocol) -}}
{{- end -}}
{{- end -}}
{{- else if or $kafka.sasl.username $kafka.sasl.password $kafka.sasl.existingSecret.name -}}
{{- $wrong = append $wrong (printf "kafka.sasl is set, but kafka.securityProtocol is %s, which knows no users; set SASL_SSL or SASL_PLAINTEXT." $kafka.securityProtocol) -}}
{{- end -}}
{{- if and (not (include "telemetry.usesTls" .)) (or $kafka.tls.ca $kafka.tls.certificate $kafka.tls.existingCa.name $kafka.tls.existingCertificate.name) -}}
{{- $wrong = append $wrong (printf "kafka.tls is set, but kafka.securityProtocol is %s, which has no TLS; set SSL or SASL_SSL." $kafka.securityProtocol) -}}
{{- end -}}
{{- if ne (empty $kafka.tls.certificate) (empty $kafka.tls.key) -}}
{{- $wrong = append $wrong "kafka.tls.certificate and kafka.tls.key belong together; one of them is missing." -}}
{{- end -}}
{{- if and .Values.topics.minInsyncReplicas .Values.topics.replicationFactor (gt (int64 .Values.topics.minInsyncReplicas) (int64 .Values.topics.replicationFactor)) -}}
{{- $wrong = append $wrong "topics.minInsyncReplicas is above topics.replicationFactor; nothing could be written then." -}}
{{- end -}}
{{- $isLoopback := or (hasPrefix "127." .Values.host) (has .Values.host (list "::1" "localhost")) -}}
{{- range $key, $service := $services -}}
{{- $scaling := $service.autoscaling -}}
{{- $isScaled := ne $scaling.type "none" -}}
{{- $most := ternary (int64 $scaling.maxReplicas) (int64 $service.replicas) $isScaled -}}
{{- $what := ternary "autoscaling.maxReplicas" "replicas" $isScaled -}}
{{- if gt $most $partitions -}}
{{- $wrong = append $wrong (printf "services.%s: %s is %d, but topics have %d partitions; a copy more than that would get none. (Have the topics more? Set kafka.partitions.)" $key $what $most $partitions) -}}
{{- end -}}
{{- if and $isScaled (gt (int64 $scaling.minReplicas) (int64 $scaling.maxReplicas)) -}}
{{- $wrong = append $wrong (printf "services.%s: autoscaling.minReplicas is above autoscaling.maxReplicas." $key) -}}
{{- end -}}
{{- if include "telemetry.isSqlite" $service -}}
{{- if $isScaled -}}
{{- $wrong = append $wrong (printf "services.%s keeps events in SQLite, which has one writer, so it can't be scaled; set services.%s.autoscaling.type to none, or database.type to postgresql." $key $key) -}}
{{- else if gt (int64 $service.replicas) 1 -}}
{{- $wrong = append $wrong (printf "services.%s keeps events in SQLite, which has one writer; set services.%s.replicas to 1, or database.type to postgresql." $key $key) -}}
{{- end -}}
{{- end -}}
{{- if eq $service.command "event-index" -}}
{{- if and (eq $service.database.type "postgresql") (not (or $service.database.url $service.database.existingSecret.name)) -}}
{{- $wrong = append $wrong (printf "services.%s.database is postgresql without an address; set database.existingSecret.name or database.url." $key) -}}
{{- end -}}
{{- if and $service.database.url (ne $service.database.type "postgresql") -}}
{{- $wrong = append $wrong (printf "services.%s.database.url is PostgreSQL's address; set database.type to postgresql." $key) -}}
{{- end -}}
{{- end -}}
{{- if and $service.serves (not $isLoopback) (not (or $.Values.api.token $.Values.api.existingSecret.name)) -}}
{{- $wrong = append $wrong (printf "services.%s serves /v1 on %s and needs a token; set api.existingSecret.name or api.token." $key $.Values.host) -}}
{{- end -}}
{{- if lt (int64 $service.terminationGracePeriodSeconds) (add (int64 $service.preStopSeconds) 10) -}}
{{- $wrong = append $wrong (printf "services.%s: terminationGracePeriodSeconds must be 10 above preStopSeconds at least; a drain takes up to 10 s." $key) -}}
{{- end -}}
{{- if and (eq $scaling.type "keda") (eq $kafka.sasl.mechanism "OAUTHBEARER") (include "telemetry.usesSasl" $) (not $scaling.authenticationRef.name) -}}
{{- $wrong = append $wrong (printf "services.%s is scaled by KEDA, which needs a TriggerAuthentication of your own for OAUTHBEARER; name it in autoscaling.authenticationRef." $key) -}}
{{- end -}}
{{- $lease := index $service.settings "TELEMETRY_LEASE" -}}
{{- $session := index $kafka.settings "session.timeout.ms" -}}
{{- if and $lease $session (ge (mulf (float64 $lease) 1000.0) (float64 $session)) -}}
{{- $wrong = append $wrong (printf "services.%s: TELEMETRY_LEASE must be less than kafka.settings' session.timeout.ms; a frozen copy could show old numbers when it wakes." $key) -}}
{{- end -}}
{{- end -}}
{{- if .Values.ingress.enabled -}}
{{- if not $services.eventIndex -}}
{{- $wrong = append $wrong "ingress leads to event-index, which is off; turn services.eventIndex on, or ingress off." -}}
{{- end -}}
{{- if not .Values.ingress.host -}}
{{- $wrong = append $wrong "ingress.host is empty; name the host under which the API is reached." -}}
{{- end -}}
{{- end -}}
{{- if and $isLoopback $services -}}
{{- $wrong = append $wrong (printf "host is %s, where neither probes nor Prometheus reach the services; set 0.0.0.0, or ::." .Values.host) -}}
{{- end -}}
{{- if $wrong -}}
{{- fail (printf "\n\nThese values can't work together:\n- %s\n" (join "\n- " $wrong)) -}}
{{- end -}}
{{- end -}}
