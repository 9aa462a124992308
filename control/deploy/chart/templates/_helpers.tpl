{{- define "fairway.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "fairway.control" -}}
--kubernetes
--at-exit=keep
--stand-by
--uplink={{ .Values.uplink }}
{{- range .Values.clusterCidrs }}
--cluster-cidr={{ . }}
{{- end }}
{{- range .Values.serviceCidrs }}
--service-cidr={{ . }}
{{- end }}
--encapsulation={{ .Values.encapsulation }}
--vni={{ .Values.vni }}
{{- if .Values.tunnelPort }}
--tunnel-port={{ .Values.tunnelPort }}
{{- end }}
{{- if .Values.apiServer }}
--api-server={{ .Values.apiServer }}
{{- end }}
{{- range .Values.control.args }}
{{ . }}
{{- end }}
{{- end }}

{{- define "fairway.dataplane" -}}
--stand-by
--workers={{ .Values.dataplane.workers }}
{{- range .Values.dataplane.args }}
{{ . }}
{{- end }}
{{- end }}
