{{/* The name of everything, at most 52 characters: a StatefulSet's pods add to it. */}}
{{- define "gateway.name" -}}
{{- $name := printf "%s-%s" .Release.Name .Chart.Name -}}
{{- if contains .Chart.Name .Release.Name }}{{ $name = .Release.Name }}{{ end -}}
{{- $name | trunc 46 | trimSuffix "-" -}}
{{- end }}

{{- define "gateway.redis" -}}
{{ include "gateway.name" . }}-redis
{{- end }}

{{/* What pods are found by. The argument: the root, and the component's name. */}}
{{- define "gateway.selector" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- end }}

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ (index . 0).Chart.Name }}-{{ (index . 0).Chart.Version }}
{{- end }}
