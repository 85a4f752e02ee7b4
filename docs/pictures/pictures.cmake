# Draws the pictures of this folder, and compares them with what is here; with -Dupdate=ON, puts them here.
# cmake -Dtool=... -Dwork=... [-Dupdate=ON] -P pictures.cmake

set(here ${CMAKE_CURRENT_LIST_DIR})

function(draw name workers)
  if(update)
    set(picture ${here}/${name}.svg)
  else()
    set(picture ${work}/${name}.svg)
  endif()
  execute_process(
    COMMAND ${tool} plan ${ARGN} --workers ${workers} --cost-model ${here}/cost_model.json --svg ${picture}
    WORKING_DIRECTORY ${here}
    OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY
  )
  file(SHA256 ${picture} drawn)
  file(SHA256 ${here}/${name}.svg expected)
  if(NOT drawn STREQUAL expected)
    message(SEND_ERROR "${name}.svg is not what the tool draws (${picture}); the target espalier_pictures updates it")
  endif()
endfunction()

file(MAKE_DIRECTORY ${work})
draw(sequence 64 star:4096,16,256 --heads 8,2,128 --strategy sequence)
draw(node 64 star:4096,16,256 --heads 8,2,128 --strategy node)
draw(node_chunk 64 star:4096,16,256 --heads 8,2,128 --strategy node_chunk)
draw(flatten 64 tokens:1500,32 --heads 8,2,128 --strategy flatten)

# The tree of concepts.md, for eight threads.
foreach(strategy IN ITEMS sequence node flatten automatic)
  draw(small_${strategy} 128 small_tree.json --heads 8,2,128 --strategy ${strategy})
endforeach()
