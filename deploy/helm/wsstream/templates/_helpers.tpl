{{- /* At most 52 characters: a StatefulSet's pods have a label of its name and a hash, a service's name is longer. */ -}}
{{- define "wsstream.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* By these a Prometheus may call the metrics, beside addresses and .svc.cluster.local. */ -}}
{{- define "wsstream.metricsNames" -}}
{{- $service := printf "%s-metrics.%s" (include "wsstream.name" .) .Release.Namespace -}}
{{- list $service (printf "%s.svc" $service) (get .Values.config "metrics_names") | compact | join "," -}}
{{- end -}}

{{- define "wsstream.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "wsstream.labels" -}}
{{ include "wsstream.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- /* The image has variables for store and log_format, which win over the file; paths are the same in whosever file. */ -}}
{{- define "wsstream.env" -}}
{{- range $name, $value := pick .Values.config "store" "log_format" }}
- {name: WSSTREAM_{{ upper $name }}, value: {{ $value | quote }}}
{{- end }}
{{- with .Values.auth }}
{{- if .existingSecret }}
{{- range $name, $key := dict "TOKENS_FILE" .tokensKey "JWT_KEY_FILE" .jwtKey "JWT_PREVIOUS_KEY_FILE" .jwtPreviousKey }}
{{- if $key }}
- {name: WSSTREAM_{{ $name }}, value: /etc/wsstream-auth/{{ $key }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.tls }}
{{- if .existingSecret }}
- {name: WSSTREAM_TLS_CERT, value: /etc/wsstream-tls/{{ .certKey }}}
- {name: WSSTREAM_TLS_KEY, value: /etc/wsstream-tls/{{ .keyKey }}}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
