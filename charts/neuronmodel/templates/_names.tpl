{{- define "neuronmodel.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "neuronmodel.selector" -}}
app.kubernetes.io/name: neuronmodel-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "neuronmodel.labels" -}}
{{ include "neuronmodel.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* With defaults: `helm upgrade --reuse-values` brings the values of a former chart, which had none of these. */}}
{{- define "neuronmodel.sources" -}}
{{- $hub := dict "endpoints" list "revisionCheckSeconds" 3600 }}
{{- $s3 := dict "endpoints" list "revisionCheckSeconds" 3600 }}
{{- $defaults := dict "allowHTTP" false "huggingFace" $hub "s3" $s3 "proxy" (dict "https" "" "http" "" "noProxy" "") }}
{{- mergeOverwrite $defaults (deepCopy (.Values.sources | default dict)) | toYaml }}
{{- end }}

{{- define "neuronmodel.monitoring" -}}
{{- $rule := dict "enabled" false "labels" dict "runbookURL" "docs/runbooks" }}
{{- $dashboard := dict "enabled" false "labels" (dict "grafana_dashboard" "1") }}
{{- $monitor := dict "enabled" false "interval" "30s" "labels" dict }}
{{- $defaults := dict "podMonitor" $monitor "prometheusRule" $rule "dashboard" $dashboard }}
{{- mergeOverwrite $defaults (deepCopy (.Values.metrics | default dict)) | toYaml }}
{{- end }}
